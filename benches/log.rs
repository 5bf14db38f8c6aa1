//! What the durable log costs.
fn main() {}
