//! `isonomy member`: shows and changes the members of a running cluster.

use std::fmt;
use std::process::ExitCode;
use std::str::FromStr;

use clap::{Args, Subcommand};

use super::kv::Target;
use super::say;
use crate::client::{Members, Role};
use crate::types::{Address, Change, Member, MemberId, Membership};

/// Show and change the members of a running cluster.
///
/// All but `list` need an administrator's certificate: admin.toml, admin.pem and admin.key in the
/// cluster's directory, as `isonomy init` writes them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isonomy member list --cluster cluster
  isonomy member replace 3 4@10.0.0.4:7400 --cluster cluster
  isonomy member add 5@r5.example.com:7400 --cluster cluster
  isonomy member add 6@10.9.0.6:7400 --observer --cluster cluster
  isonomy member remove 2 --cluster cluster
  isonomy member move 1@10.0.0.9:7400 --cluster cluster

Exit codes:
  0  done
  2  wrong arguments, or the change was refused, for the reason said
  3  no answer: see with `isonomy member list` whether the change was made
  5  not done: no replica could be reached, or none accepted the request")]
pub(super) struct MemberCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show the members, and who takes part
    #[command(after_help = "Example:\n  isonomy member list --cluster cluster --replica 2")]
    List {
        #[command(flatten)]
        target: Target,
    },
    /// Add a replica that was started to join, and waits
    ///
    /// Numbers are never used twice, so give a higher one than any member has ever had. The new
    /// member takes part once it has fetched the state. Add the next one after that.
    ///
    /// An observer has no vote, so writes never wait for it. It follows the members, and answers
    /// local reads: `isonomy get KEY --local --replica N`.
    #[command(after_help = "\
Examples:
  isonomy member add 4@10.0.0.4:7400 --cluster cluster
  isonomy member add 6@10.9.0.6:7400 --observer --cluster cluster")]
    Add {
        /// The new member's number and address
        #[arg(value_name = "N@HOST:PORT")]
        new: Place,
        /// Add it without a vote: it follows the members, and answers local reads
        #[arg(long)]
        observer: bool,
        #[command(flatten)]
        how: How,
    },
    /// Give an observer a vote, under its number
    ///
    /// It takes part once a snapshot of its own is on its disk. Add or promote the next one after
    /// that.
    #[command(after_help = "Example:\n  isonomy member promote 6 --cluster cluster")]
    Promote {
        /// The observer's number
        #[arg(value_name = "N")]
        observer: MemberId,
        #[command(flatten)]
        how: How,
    },
    /// Remove a member or an observer for good, alive or not
    ///
    /// Its number is used up. It ends by itself once the others need nothing of it any more.
    #[command(after_help = "Example:\n  isonomy member remove 3 --cluster cluster")]
    Remove {
        /// The member's number
        #[arg(value_name = "N")]
        old: MemberId,
        #[command(flatten)]
        how: How,
    },
    /// Put a new replica in the place of a member, in one step: of one whose disk is lost, say
    #[command(
        after_help = "Example:\n  isonomy member replace 3 4@10.0.0.4:7400 --cluster cluster"
    )]
    Replace {
        /// The number of the member that leaves
        #[arg(value_name = "OLD")]
        old: MemberId,
        /// The new member's number and address; it was started to join, and waits
        #[arg(value_name = "NEW@HOST:PORT")]
        new: Place,
        #[command(flatten)]
        how: How,
    },
    /// Change the address at which a member is reached
    ///
    /// A host's name needs no change when its address does: it is looked up at each dial.
    #[command(after_help = "Example:\n  isonomy member move 2@10.0.0.9:7400 --cluster cluster")]
    Move {
        /// The member's number and its new address
        #[arg(value_name = "N@HOST:PORT")]
        place: Place,
        #[command(flatten)]
        how: How,
    },
}

/// Where a change is asked for, and what is accepted.
#[derive(Debug, Args)]
struct How {
    /// Make it even if the cluster has two members then, of which neither may fail
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    target: Target,
}

/// A member's number and address.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) id: MemberId,
    pub(super) address: Address,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        let (id, address) = text.split_once('@').ok_or("take the form N@HOST:PORT")?;
        let id = id.parse().map_err(|error| format!("{id:?}: {error}"))?;
        let address = address.parse().map_err(|error| format!("{address:?}: {error}"))?;
        Ok(Place { id, address })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.id.number(), self.address)
    }
}

impl From<Place> for Member {
    fn from(place: Place) -> Member {
        Member { id: place.id, address: place.address, directory: 0 }
    }
}

impl MemberCommand {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let (change, how) = match self.action {
            Action::List { target } => return list(&target),
            Action::Add { new, observer: false, how } => (Change::Add(new.into()), how),
            Action::Add { new, observer: true, how } => (Change::Observe(new.into()), how),
            Action::Promote { observer, how } => (Change::Promote(observer), how),
            Action::Remove { old, how } => (Change::Remove(old), how),
            Action::Replace { old, new, how } => (Change::Replace { old, new: new.into() }, how),
            Action::Move { place: Place { id, address }, how } => {
                (Change::Move { id, address }, how)
            }
        };
        let new = match &change {
            Change::Add(new) | Change::Replace { new, .. } | Change::Observe(new) => Some(new.id),
            Change::Promote(id) => Some(*id),
            Change::Remove(_) | Change::Move { .. } => None,
        };
        let How { force, target } = how;
        let target = target.into_administrator();
        let answer = target.answer(async |client| client.change_members(change, force).await)?;
        match answer {
            Ok(list) => {
                say(done(&list, new))?;
                Ok(ExitCode::SUCCESS)
            }
            Err(code) => Ok(code),
        }
    }
}

fn done(list: &Membership, new: Option<MemberId>) -> String {
    let mut text = format!("epoch {}", list.epoch());
    for member in list.members() {
        text.push_str(&format!("\n{}  {}", member.id, member.address));
    }
    for observer in list.observers() {
        text.push_str(&format!("\n{}  {}  observes", observer.id, observer.address));
    }
    if let Some(new) = new.filter(|new| list.is_observer(*new)) {
        text.push_str(&format!(
            "\n{new} answers local reads once it has the state: see `isonomy member list`"
        ));
    } else if let Some(new) = new {
        text.push_str(&format!(
            "\n{new} takes part once it has the state: see `isonomy member list`"
        ));
    }
    text
}

fn list(target: &Target) -> anyhow::Result<ExitCode> {
    let members = match target.answer(async |client| client.members().await)? {
        Ok(members) => members,
        Err(code) => return Ok(code),
    };
    say(shown(&members))?;
    Ok(ExitCode::SUCCESS)
}

fn shown(members: &Members) -> String {
    let mut text = members.to_string();
    match members.role {
        Role::Removed => {
            text.push_str(&format!("\n{} was removed, and ends soon", members.replica));
        }
        Role::Joining => text.push_str(&format!("\n{} gets ready", members.replica)),
        _ => {}
    }
    if let Some((received, bytes)) = members.receiving {
        text.push_str(&format!("\n{} has {received} of {bytes} bytes", members.replica));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_number_and_an_address() {
        let place: Place = "4@r4.example.com:7400".parse().expect("it is one");
        assert_eq!(
            (place.id.number(), place.address.to_string().as_str()),
            (4, "r4.example.com:7400")
        );
        for (bad, word) in
            [("4", "N@HOST:PORT"), ("0@a:1", "\"0\""), ("x@a:1", "\"x\""), ("4@a", "\"a\"")]
        {
            let said = bad.parse::<Place>().expect_err(bad);
            assert!(said.contains(word), "{said}");
        }
    }
}
