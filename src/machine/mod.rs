//! What is replicated: a deterministic state machine, the sessions that make each command happen
//! once, and a built-in key-value store.
