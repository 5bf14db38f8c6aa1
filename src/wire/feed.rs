//! The encoding of what observers and members say to each other.

use bytes::{BufMut, BytesMut};

use super::values::put_varint;
use super::{DecodeError, Flaw, Reader, Wire};
use crate::replica::epochs::{Fed, Feed, MAX_RANGES};
use crate::types::{Executed, ReplicaId};

/// The kind byte of a [`Feed`].
pub(super) const FEED: u8 = 0x0c;

/// The fewest bytes of an execution: its instance, and a batch of one command.
const LEAST: usize = 8;

impl Wire for Feed {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(FEED);
        match self {
            Feed::Look { sent, executed } => {
                out.put_u8(1);
                sent.encode(out);
                executed.encode(out);
            }
            Feed::Here { echo, executed } => {
                out.put_u8(2);
                echo.encode(out);
                executed.encode(out);
            }
            Feed::Ask { feed, have } => {
                out.put_u8(3);
                out.put_u64_le(*feed);
                have.encode(out);
            }
            Feed::Piece { feed, number, executions, floor } => {
                out.put_u8(4);
                out.put_u64_le(*feed);
                number.encode(out);
                put_varint(out, executions.len() as u64);
                executions.iter().for_each(|fed| fed.encode(out));
                floor.encode(out);
            }
            Feed::Got { feed, pieces } => {
                out.put_u8(5);
                out.put_u64_le(*feed);
                pieces.encode(out);
            }
            Feed::Behind { feed, at_least } => {
                out.put_u8(6);
                out.put_u64_le(*feed);
                at_least.encode(out);
            }
        }
    }

    fn decode(from: &mut Reader<'_>) -> Result<Feed, DecodeError> {
        let start = from.offset();
        match from.byte("a message of observers")? {
            FEED => {}
            kind => return from.refuse(start, Flaw::Kind { what: "a message of observers", kind }),
        }
        let start = from.offset();
        match from.byte("a message of observers")? {
            1 => Ok(Feed::Look { sent: from.read()?, executed: from.read()? }),
            2 => Ok(Feed::Here { echo: from.read()?, executed: from.read()? }),
            3 => Ok(Feed::Ask { feed: from.fixed("a feed")?, have: few_ranges(from)? }),
            4 => {
                let (feed, number) = (from.fixed("a feed")?, from.read()?);
                let count = from.count("executions", usize::MAX, LEAST)?;
                let executions = (0..count).map(|_| from.read()).collect::<Result<_, _>>()?;
                Ok(Feed::Piece { feed, number, executions, floor: from.read()? })
            }
            5 => Ok(Feed::Got { feed: from.fixed("a feed")?, pieces: from.read()? }),
            6 => Ok(Feed::Behind { feed: from.fixed("a feed")?, at_least: from.read()? }),
            kind => from.refuse(start, Flaw::Kind { what: "a message of observers", kind }),
        }
    }
}

/// A set that a feeder keeps, and so has a bound on its ranges.
fn few_ranges(from: &mut Reader<'_>) -> Result<Executed, DecodeError> {
    let start = from.offset();
    let executed: Executed = from.read()?;
    let ranges = |owner: ReplicaId| executed.above(owner).len();
    let found: usize = ReplicaId::all(executed.floor().len()).map(ranges).sum();
    if found > MAX_RANGES {
        let (found, limit) = (found as u64, MAX_RANGES as u64);
        return from.refuse(start, Flaw::TooMany { what: "ranges", found, limit });
    }
    Ok(executed)
}

impl Wire for Fed {
    fn encode(&self, out: &mut BytesMut) {
        self.id.encode(out);
        self.batch.encode(out);
        self.ends_component.encode(out);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Fed, DecodeError> {
        Ok(Fed { id: from.read()?, batch: from.read()?, ends_component: from.read()? })
    }
}
