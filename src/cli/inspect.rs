//! `isonomy inspect`: shows what a replica's directory holds, and whether it is sound.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};

use super::backup::executed;
use super::{NO, Unwritten, complain, say};
use crate::node::{Inspection, SnapshotContents};
use crate::storage::{LastCommand, SnapshotInfo};
use crate::types::{Deps, Member, Membership, RequestId};

/// Show what a replica's data directory holds, and verify all checksums.
///
/// Prints the replica's identity, its snapshots, its log, and how far its instances are. Only
/// reads, and takes no lock, so the replica may be running.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isonomy inspect cluster/1.data
  isonomy inspect cluster/1.data --json

Exit codes:
  0  everything is sound
  1  something is damaged or missing
  2  wrong arguments, or no data directory")]
pub(super) struct Inspect {
    /// The replica's data directory
    dir: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let found = Inspection::of(&self.dir);
        let found = found.with_context(|| format!("cannot look at {}", self.dir.display()))?;
        let report = &found.report;
        if report.identity.is_none() && report.problems.is_empty() {
            bail!("{} is no replica's data directory: there is no identity", self.dir.display());
        }
        let printed = match self.json {
            true => say(format_args!("{:#}", to_json(&found))),
            false => print(&found),
        };
        for problem in &report.problems {
            complain(format_args!("damaged: {problem}\n  {}", found.advice(problem)));
        }
        // Damage is reported even if standard output fails.
        printed?;
        Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::from(NO) })
    }
}

fn print(found: &Inspection) -> Result<(), Unwritten> {
    let report = &found.report;
    if let Some(identity) = &report.identity {
        let size = found.replicas.map_or(String::new(), |size| format!(" of {size}"));
        say(format_args!(
            "replica {}{size} of cluster {}, incarnation {}, directory {:016x}, runs {}",
            identity.replica.number(),
            identity.cluster,
            identity.incarnation,
            identity.directory,
            identity.protocol
        ))?;
    }
    if let Some(list) = &found.list {
        say(format_args!("epoch {} with the members {list}", list.epoch()))?;
    }
    let origin = report.identity.as_ref().map_or(0, |identity| identity.origin);
    if origin != 0 {
        say(format_args!("restored from backup {origin:016x}"))?;
    }
    if report.identity.as_ref().is_some_and(|identity| identity.outcast) {
        say("the others have shut it out: it must not vote any more")?;
    }
    match report.holder {
        Some(0) => say("in use by a process")?,
        Some(process) => say(format_args!("in use by process {process}"))?,
        None => {}
    }
    for (snapshot, contents) in report.snapshots.iter().zip(&found.contents) {
        let (file, position) = (&snapshot.file, snapshot.position.records());
        say(format_args!(
            "snapshot {file}: up to record {position}, {} bytes in {} chunks, checksum {:08x}",
            snapshot.bytes, snapshot.chunks, snapshot.checksum
        ))?;
        if let Some(contents) = contents {
            print_contents(contents)?;
        }
    }
    if let (Some(first), Some(last)) = (report.segments.first(), report.segments.last()) {
        let (start, end, count) = (first.first, last.end, report.segments.len());
        say(format_args!("log: records {start} to {end} in {count} segments"))?;
    }
    for segment in &report.segments {
        let (file, used, bytes) = (&segment.file, segment.used, segment.bytes);
        let (first, end) = (segment.first, segment.end);
        let seal = if segment.sealed { "" } else { ", not sealed" };
        say(format_args!("  {file}: records {first} to {end}, {used} of {bytes} bytes{seal}"))?;
    }
    if found.reserved > 0 {
        say(format_args!("own slots are reserved up to {}", found.reserved))?;
    }
    print_commands(found)?;
    print_owners(found)?;
    if report.is_sound() {
        say("sound: every checksum fits")?;
    }
    Ok(())
}

fn print_owners(found: &Inspection) -> Result<(), Unwritten> {
    if !found.owners.is_empty() {
        say("instances in the log:")?;
        say("  owner      committed   nop      accepted  pre-accepted  initial   highest  round")?;
    }
    for (owner, it) in &found.owners {
        say(format_args!(
            "  {:<9} {:>10} {:>5} {:>13} {:>13} {:>8} {:>9} {:>6}",
            format!("replica {}", owner.number()),
            it.committed,
            it.nops,
            it.accepted,
            it.pre_accepted,
            it.initial,
            it.highest,
            it.highest_round
        ))?;
    }
    Ok(())
}

/// Prints skipped requests and the last command.
fn print_commands(found: &Inspection) -> Result<(), Unwritten> {
    for request in &found.skipped {
        say(format_args!("request {request} is skipped: it is never executed"))?;
    }
    if let (Some(last), None) = (&found.last_command, found.report.holder) {
        let LastCommand { request, instance, bytes, digest, lives } = last;
        say(format_args!(
            "its last life ended while it executed request {request} in instance {instance}, \
             {bytes} bytes with XXH3-64 {digest:016x}; {lives} in a row did"
        ))?;
    }
    Ok(())
}

fn print_contents(contents: &SnapshotContents) -> Result<(), Unwritten> {
    let slots = |deps: &Deps| {
        let slots: Vec<_> = deps.as_slots().iter().map(u64::to_string).collect();
        slots.join(" ")
    };
    let ((era, sessions), bytes) = (contents.sessions, contents.state_bytes);
    say(format_args!("  state: {bytes} bytes, {sessions} sessions, era {era}"))?;
    if let Some(number) = contents.checkpoint {
        say(format_args!("  its state is checkpoint {number} of a store on disk"))?;
    }
    say(format_args!("  executed: {}", executed(&contents.executed)))?;
    if let Some(shared) = &contents.shared {
        let [floor, cut, dropped] = [&shared.floor, &shared.cut, &shared.dropped].map(slots);
        say(format_args!(
            "  by owner, forgotten up to {floor}; cut {cut}; dropped up to {dropped}"
        ))?;
        say(format_args!("  {} executed decisions kept for others", shared.settled))?;
    }
    say(format_args!("  {} records of its own", contents.own))
}

fn contents_to_json(contents: &SnapshotContents) -> Value {
    let ((era, sessions), shared) = (contents.sessions, contents.shared.as_ref());
    let owners = contents.executed.floor().iter().map(|(owner, _)| owner);
    json!({
        "state_bytes": contents.state_bytes,
        "checkpoint": contents.checkpoint,
        "sessions": sessions,
        "era": era.number(),
        "executed": contents.executed.floor().as_slots(),
        "executed_above": owners.map(|it| contents.executed.above(it)).collect::<Vec<_>>(),
        "forgotten": shared.map(|it| it.floor.as_slots()),
        "cut": shared.map(|it| it.cut.as_slots()),
        "dropped": shared.map(|it| it.dropped.as_slots()),
        "settled": shared.map(|it| it.settled),
        "own_records": contents.own,
    })
}

fn members_to_json(list: &Membership) -> Vec<Value> {
    let member = |it: &Member| json!({ "id": it.id.number(), "address": it.address.to_string() });
    list.members().iter().map(member).collect()
}

fn to_json(found: &Inspection) -> Value {
    let report = &found.report;
    let identity = report.identity.as_ref().map(|it| {
        json!({
            "cluster": it.cluster,
            "protocol": it.protocol,
            "replica": it.replica.number(),
            "incarnation": it.incarnation,
            "directory": format!("{:016x}", it.directory),
            "origin": format!("{:016x}", it.origin),
            "outcast": it.outcast,
        })
    });
    let snapshot = |(it, contents): (&SnapshotInfo, &Option<SnapshotContents>)| {
        json!({
            "file": it.file,
            "position": it.position.records(),
            "bytes": it.bytes,
            "chunks": it.chunks,
            "checksum": format!("{:08x}", it.checksum),
            "contents": contents.as_ref().map(contents_to_json),
        })
    };
    let segment = |it: &crate::storage::SegmentState| {
        json!({
            "file": it.file,
            "bytes": it.bytes,
            "used": it.used,
            "first": it.first,
            "end": it.end,
            "sealed": it.sealed,
        })
    };
    let owners = found.owners.iter().map(|(owner, it)| {
        json!({
            "owner": owner.number(),
            "committed": it.committed,
            "nops": it.nops,
            "accepted": it.accepted,
            "pre_accepted": it.pre_accepted,
            "initial": it.initial,
            "highest_slot": it.highest,
            "highest_round": it.highest_round,
        })
    });
    let problem = |it| json!({ "what": format!("{it}"), "advice": found.advice(it) });
    json!({
        "sound": report.is_sound(),
        "in_use_by": report.holder,
        "identity": identity,
        "replicas": found.replicas,
        "epoch": found.list.as_ref().map_or(0, Membership::epoch),
        "members": found.list.as_ref().map(members_to_json),
        "records": found.records,
        "reserved": found.reserved,
        "skipped": found.skipped.iter().map(RequestId::to_string).collect::<Vec<_>>(),
        "last_command": found.last_command.as_ref().map(|it| json!({
            "request": it.request.to_string(),
            "instance": it.instance,
            "bytes": it.bytes,
            "xxh3": format!("{:016x}", it.digest),
            "lives": it.lives,
        })),
        "snapshots": report.snapshots.iter().zip(&found.contents).map(snapshot).collect::<Vec<_>>(),
        "segments": report.segments.iter().map(segment).collect::<Vec<_>>(),
        "instances": owners.collect::<Vec<_>>(),
        "problems": report.problems.iter().map(problem).collect::<Vec<_>>(),
    })
}
