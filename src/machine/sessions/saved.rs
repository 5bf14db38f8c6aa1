//! The session table in a snapshot: one canonical form, and a checked way back from untrusted
//! bytes. It is written and read one session at a time.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::contents::{Content, Contents};
use super::ranges::Ranges;
use super::session::{Kept, Session};
use super::{ContentKey, RESULT_BYTES, RESULTS, Sessions};
use crate::machine::RestoreError;
use crate::machine::stream::{put, take};
use crate::types::{ClientId, CowMap, Era};

/// The part of a snapshot before the sessions.
#[derive(Serialize, Deserialize)]
struct Head {
    era: u32,
    closes: u64,
    key: ContentKey,
    sessions: u64,
}

/// The table in a snapshot of version 3, which is one value.
#[derive(Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(in crate::machine) struct SavedSessions {
    pub(super) era: u32,
    pub(super) closes: u64,
    pub(super) key: ContentKey,
    pub(super) sessions: Vec<SavedSession>,
}

/// A session in a snapshot.
#[derive(Serialize, Deserialize)]
pub(super) struct SavedSession {
    pub(super) client: u64,
    pub(super) executed: Vec<Content>,
    /// Executed by a version that did not record contents.
    pub(super) before: Vec<(u64, u64)>,
    pub(super) closed: u64,
    pub(super) promised: u64,
    pub(super) used: u32,
    pub(super) floor: u64,
    pub(super) results: Vec<(Content, Bytes)>,
}

/// The table in a snapshot of version 2, which had no contents.
#[derive(Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(in crate::machine) struct SavedSessionsV2 {
    pub(super) era: u32,
    pub(super) sessions: Vec<SavedSessionV2>,
}

/// A session in a snapshot of version 2.
#[derive(Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(super) struct SavedSessionV2 {
    pub(super) client: u64,
    pub(super) executed: Vec<(u64, u64)>,
    pub(super) closed: u64,
    pub(super) promised: u64,
    pub(super) used: u32,
    pub(super) floor: u64,
    pub(super) results: Vec<(u64, Bytes)>,
}

impl From<SavedSessionsV2> for SavedSessions {
    fn from(saved: SavedSessionsV2) -> SavedSessions {
        let session = |it: SavedSessionV2| SavedSession {
            client: it.client,
            executed: Vec::new(),
            before: it.executed,
            closed: it.closed,
            promised: it.promised,
            used: it.used,
            floor: it.floor,
            results: it.results.into_iter().map(|(at, result)| ((at, 0), result)).collect(),
        };
        let sessions = saved.sessions.into_iter().map(session).collect();
        SavedSessions { era: saved.era, closes: 0, key: ContentKey::default(), sessions }
    }
}

fn save(client: ClientId, session: &Session) -> SavedSession {
    SavedSession {
        client: client.0,
        executed: session.executed.sorted(),
        before: session.before.as_ref().map_or(Vec::new(), |it| it.parts().to_vec()),
        closed: session.closed,
        promised: session.promised,
        used: session.used.number(),
        floor: session.floor,
        results: session
            .results
            .iter()
            .map(|kept| (kept.content, Bytes::copy_from_slice(&kept.result)))
            .collect(),
    }
}

impl Sessions {
    /// All sessions, sorted by client.
    fn sorted(&self) -> Vec<(ClientId, &Session)> {
        let mut sessions: Vec<_> =
            self.table.unordered().map(|(client, session)| (*client, &**session)).collect();
        sessions.sort_unstable_by_key(|(client, _)| *client);
        sessions
    }

    /// Writes the table in its canonical form.
    pub(in crate::machine) fn write_to(&self, to: &mut dyn Write) -> io::Result<()> {
        let (era, closes, key) = (self.era.number(), self.closes, self.key);
        let mut space = Vec::new();
        put(to, &Head { era, closes, key, sessions: self.table.len() as u64 }, &mut space)?;
        let mut sessions = self.sorted().into_iter();
        sessions.try_for_each(|(client, session)| put(to, &save(client, session), &mut space))
    }

    /// The inverse of `write_to`, for untrusted bytes. It reads nothing after the table.
    pub(in crate::machine) fn read_from(from: &mut dyn Read) -> Result<Sessions, RestoreError> {
        let mut space = Vec::new();
        let Head { era, closes, key, sessions } = take(from, &mut space)?;
        let saved = (0..sessions).map(|_| take(from, &mut space));
        Sessions::load(era, closes, key, saved)
    }

    /// The inverse of `to_saved`, for untrusted bytes.
    pub(in crate::machine) fn from_saved(saved: SavedSessions) -> Result<Sessions, RestoreError> {
        let SavedSessions { era, closes, key, sessions } = saved;
        Sessions::load(era, closes, key, sessions.into_iter().map(Ok))
    }

    fn load(
        era: u32,
        closes: u64,
        key: ContentKey,
        saved: impl Iterator<Item = Result<SavedSession, RestoreError>>,
    ) -> Result<Sessions, RestoreError> {
        let era = Era::new(era).ok_or_else(|| RestoreError::new("an era that never comes"))?;
        let (mut table, mut last) = (CowMap::default(), None);
        for saved in saved {
            let saved = saved?;
            if last.is_some_and(|last| last >= saved.client) {
                return Err(RestoreError::new("sessions are not in order"));
            }
            last = Some(saved.client);
            table.insert(ClientId(saved.client), Arc::new(load(saved, era)?));
        }
        let mut sessions = Sessions { era, closes, key, table, ..Sessions::default() };
        sessions.measure();
        Ok(sessions)
    }

    /// The table as version 3 wrote it.
    #[cfg(test)]
    pub(in crate::machine) fn to_saved(&self) -> SavedSessions {
        let sessions = self.sorted().into_iter().map(|(client, it)| save(client, it)).collect();
        let (era, closes, key) = (self.era.number(), self.closes, self.key);
        SavedSessions { era, closes, key, sessions }
    }
}

fn load(saved: SavedSession, era: Era) -> Result<Session, RestoreError> {
    let SavedSession { executed, before, closed, promised, used, floor, results, .. } = saved;
    let used = Era::new(used).filter(|used| *used == era || used.next() == Some(era));
    let used = used.ok_or_else(|| RestoreError::new("a session that ought to be removed"))?;
    let wrong = || RestoreError::new("executed sequences are not in order");
    let ends = [executed.first().map(|it| it.0), executed.last().map(|it| it.0)];
    let ends =
        ends.into_iter().chain([before.first().map(|it| it.0), before.last().map(|it| it.1)]);
    let outside = ends.flatten().any(|it| it < closed || Era::of(it) > used);
    let executed = Contents::from_sorted(executed).ok_or_else(wrong)?;
    let before = Ranges::from_parts(before).ok_or_else(wrong)?;
    if outside || floor < promised {
        return Err(RestoreError::new("sequences outside of their bounds"));
    }
    let known = |(content, _): &(Content, Bytes)| {
        content.0 >= floor && (executed.contains(*content) || before.contains(content.0))
    };
    if !results.is_sorted_by(|a, b| a.0 < b.0) || !results.iter().all(known) {
        return Err(RestoreError::new("results of commands that were not executed"));
    }
    let bytes = results.iter().map(|(_, result)| result.len()).sum();
    if results.len() > RESULTS || (bytes > RESULT_BYTES && results.len() > 1) {
        return Err(RestoreError::new("more results than a session keeps"));
    }
    let keep = |(content, result): (Content, Bytes)| Kept {
        content,
        result: SmallVec::from_slice(&result),
    };
    let results: VecDeque<Kept> = results.into_iter().map(keep).collect();
    let before = (!before.parts().is_empty()).then(|| Box::new(before));
    Ok(Session { executed, before, closed, promised, used, floor, results, bytes })
}

/// What version 2 wrote for one session, client 1, in the first era.
#[cfg(test)]
pub(in crate::machine) fn sessions_v2(
    executed: &[(u64, u64)],
    floor: u64,
    results: &[(u64, crate::machine::KvOutput)],
) -> SavedSessionsV2 {
    let encoded = |output| crate::machine::encode(output).expect("plain");
    let session = SavedSessionV2 {
        client: 1,
        executed: executed.to_vec(),
        closed: 0,
        promised: floor,
        used: 0,
        floor,
        results: results.iter().map(|(sequence, output)| (*sequence, encoded(output))).collect(),
    };
    SavedSessionsV2 { era: 0, sessions: vec![session] }
}
