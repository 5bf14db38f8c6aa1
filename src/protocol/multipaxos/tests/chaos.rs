//! Schedules at random: loss, reordering, duplication, partitions, crashes that lose what was not
//! flushed, clocks that run apart, snapshots and installs.
