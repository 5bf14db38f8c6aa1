//! Which peers are admitted and which are refused.

use super::*;
use crate::storage::{FaultyDisk, Operation, Store, StoreOptions};
use crate::types::member_id as peer;

fn at(records: u64) -> LogPosition {
    LogPosition::new(records)
}

fn shown(directory: u64, life: u64, began: u64, held: u64) -> Presence {
    Presence { directory, life, began: at(began), held: at(held) }
}

fn remembered(life: u64, began: u64, held: u64) -> Known {
    shown(7, life, began, held).known()
}

fn open(disk: &Arc<FaultyDisk>) -> Register {
    let options = StoreOptions {
        cluster: "c".to_owned(),
        replica: peer(1),
        protocol: "epaxos".to_owned(),
        members: MemberId::all(3).collect(),
        joins: false,
        log: Default::default(),
        snapshots: Default::default(),
    };
    let shared: Arc<dyn Disk> = disk.clone();
    let opening = Store::open(Arc::clone(&shared), &options).unwrap();
    let store = opening.replay(&mut |_, _| Ok(())).unwrap();
    listed(Register::on_disk(store.identity, shared, BTreeMap::new()))
}

fn in_memory() -> Register {
    listed(Register::in_memory("c", "epaxos", peer(1)))
}

/// In epoch 0, with four members.
fn listed(register: Register) -> Register {
    assert_eq!(register.set_list(0, list(&[(1, 0), (2, 0), (3, 0), (4, 0)]), list(&[])), []);
    register
}

fn list(members: &[(u32, u64)]) -> BTreeMap<MemberId, u64> {
    members.iter().map(|(number, directory)| (peer(*number), *directory)).collect()
}

fn connected(numbers: &[u32]) -> BTreeSet<MemberId> {
    numbers.iter().map(|number| peer(*number)).collect()
}

#[test]
fn a_peer_is_known_by_its_directory_across_restarts() {
    let disk = Arc::new(FaultyDisk::new(1, 64 << 20));
    let admit = |number, shown| {
        disk.lose_power();
        open(&disk).admit(peer(number), shown, &[])
    };
    assert_eq!(admit(2, shown(7, 3, 0, 0)), Ok(()));
    assert_eq!(admit(2, shown(7, 3, 0, 9)), Ok(()), "it reconnects");
    assert_eq!(admit(2, shown(7, 5, 9, 9)), Ok(()), "it was restarted");
    let wiped = Refusal::OtherDirectory { id: peer(2), known: 7, theirs: 8 };
    assert_eq!(admit(2, shown(8, 9, 0, 0)), Err(wiped));
    let forgot = Refusal::OtherDirectory { id: peer(2), known: 7, theirs: 0 };
    assert_eq!(admit(2, shown(0, 9, 0, 0)), Err(forgot));
    assert_eq!(admit(2, shown(7, 5, 9, 9)), Ok(()), "what was refused left no trace");
}

#[test]
fn a_peer_is_known_in_memory_too() {
    let register = in_memory();
    for _ in 0..2 {
        assert_eq!(register.admit(peer(2), shown(0, 1, 0, 0), &[]), Ok(()));
    }
    let again = register.admit(peer(2), shown(0, 2, 0, 0), &[]);
    assert_eq!(again, Err(Refusal::Forgetful(peer(2))));
    let late = Refusal::OtherDirectory { id: peer(2), known: 0, theirs: 8 };
    assert_eq!(register.admit(peer(2), shown(8, 1, 0, 0), &[]), Err(late));
    register.met(peer(2), shown(0, 1, 0, 0));
    assert_eq!(register.heard(peer(2), at(0)), Ok(None), "it has no log");
}

#[test]
fn in_memory_nobody_is_let_in_before_that_is_noted() {
    let (notes, fails) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(true)));
    let (counted, failing) = (Arc::clone(&notes), Arc::clone(&fails));
    let note = BeforeFirstPeer::new(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        let full = || Err(io::Error::from(io::ErrorKind::StorageFull));
        if failing.load(Ordering::Relaxed) { full() } else { Ok(()) }
    });
    let register = in_memory().before_first_peer(Some(note));
    let admit = |number, shown| register.admit(peer(number), shown, &[]);
    let noted = || notes.load(Ordering::Relaxed);
    for times in 1..=2 {
        assert_eq!(admit(2, shown(0, 1, 0, 0)), Err(Refusal::NotNoted));
        assert_eq!(noted(), times, "it is tried again");
    }
    fails.store(false, Ordering::Relaxed);
    assert_eq!(admit(2, shown(0, 1, 0, 0)), Ok(()));
    assert_eq!(noted(), 3);
    assert_eq!(admit(2, shown(0, 1, 0, 0)), Ok(()), "it reconnects");
    assert_eq!(admit(3, shown(0, 1, 0, 0)), Ok(()));
    assert_eq!(noted(), 3, "once is enough");
}

#[test]
fn a_peer_that_lacks_what_was_heard_of_it_is_refused_until_it_is_the_one_again() {
    let register = open(&Arc::new(FaultyDisk::new(1, 64 << 20)));
    let admit = |shown| register.admit(peer(2), shown, &[]);
    assert_eq!(admit(shown(7, 3, 0, 10)), Ok(()));
    register.met(peer(2), shown(7, 3, 0, 10));
    assert!(register.introduce().knows.is_empty(), "it has said nothing yet");
    assert!(register.heard(peer(2), at(12)).unwrap().is_some());
    assert_eq!(register.heard(peer(2), at(12)), Ok(None), "that is no news");
    assert_eq!(register.heard(peer(3), at(12)), Ok(None), "it was never met");
    let why = Refusal::OlderCopy { id: peer(2), by: peer(1), known: 12, shown: 11 };
    assert_eq!(admit(shown(7, 4, 11, 40)), Err(why));
    assert_eq!(admit(shown(7, 3, 0, 11)), Ok(()), "it has said more since it said hello");
    assert_eq!(admit(shown(7, 4, 12, 12)), Ok(()));
    assert_eq!(register.introduce().knows, [(peer(2), remembered(3, 0, 12))]);
    register.met(peer(2), shown(7, 4, 12, 12));
    assert!(register.heard(peer(2), at(12)).unwrap().is_some(), "it is in another life");
    assert_eq!(register.introduce().knows, [(peer(2), remembered(4, 12, 12))]);
}

/// About replica 3, whose directory was copied at 10 records. It was heard at 12 in life 4. In life
/// 9 it continues from the copy.
#[test]
fn a_peer_that_has_acted_on_another_history_of_a_third_is_refused() {
    let register = open(&Arc::new(FaultyDisk::new(1, 64 << 20)));
    let admit = |theirs| register.admit(peer(2), shown(8, 1, 0, 0), &[(peer(3), theirs)]);
    register.met(peer(3), shown(7, 4, 0, 10));
    assert_eq!(admit(remembered(9, 10, 11)), Ok(()), "nothing was heard of it here");
    let register = open(&Arc::new(FaultyDisk::new(1, 64 << 20)));
    let admit = |theirs| register.admit(peer(2), shown(8, 1, 0, 0), &[(peer(3), theirs)]);
    register.met(peer(3), shown(7, 4, 0, 10));
    register.heard(peer(3), at(12)).unwrap();
    let (ours, theirs) = (remembered(4, 0, 12), remembered(9, 10, 11));
    let why = Refusal::Contradiction { id: peer(2), third: peer(3), by: peer(1), ours, theirs };
    let words = why.to_string();
    for part in ["r2 remembers r3 up to record 11", "r1 up to record 12", "from a backup"] {
        assert!(words.contains(part), "{words}");
    }
    assert_eq!(admit(theirs), Err(why));
    let unknown = Known { began: None, ..theirs };
    for theirs in [remembered(9, 12, 40), remembered(4, 0, 40), remembered(2, 0, 0), unknown] {
        assert_eq!(admit(theirs), Ok(()), "{theirs:?}");
    }
}

#[test]
fn what_a_peer_has_told_of_a_third_counts_as_if_it_was_heard_here() {
    let register = open(&Arc::new(FaultyDisk::new(1, 64 << 20)));
    let admit = |by, theirs| register.admit(peer(by), shown(8, 1, 0, 0), &[(peer(3), theirs)]);
    let (original, copy) = (remembered(4, 0, 12), remembered(9, 10, 11));
    assert_eq!(admit(2, original), Ok(()));
    let older = Refusal::OlderCopy { id: peer(3), by: peer(2), known: 12, shown: 10 };
    assert_eq!(register.admit(peer(3), shown(7, 9, 10, 10), &[]), Err(older));
    let wiped = Refusal::OtherDirectory { id: peer(3), known: 7, theirs: 6 };
    assert_eq!(register.admit(peer(3), shown(6, 1, 0, 0), &[]), Err(wiped));
    let (id, by) = (peer(4), peer(2));
    let parted = Refusal::Contradiction { id, third: peer(3), by, ours: original, theirs: copy };
    assert_eq!(admit(4, copy), Err(parted));
    assert_eq!(admit(2, remembered(5, 12, 20)), Ok(()), "it knows best what it remembers");
}

#[test]
fn a_frame_of_a_life_that_is_known_to_be_short_by_then_is_not_acted_on() {
    let register = open(&Arc::new(FaultyDisk::new(1, 64 << 20)));
    register.admit(peer(3), shown(7, 9, 10, 10), &[]).unwrap();
    register.met(peer(3), shown(7, 9, 10, 10));
    let (theirs, ours) = (remembered(4, 0, 12), remembered(9, 10, 11));
    register.admit(peer(2), shown(8, 1, 0, 0), &[(peer(3), theirs)]).unwrap();
    let (id, third, by) = (peer(2), peer(3), peer(1));
    let why = Refusal::Contradiction { id, third, by, ours, theirs };
    assert_eq!(register.heard(third, at(11)), Err(why));
    assert!(register.introduce().knows.is_empty(), "it is not remembered");
}

#[test]
fn a_replica_that_lacks_what_a_peer_has_heard_of_it_notices_by_itself() {
    let disk = Arc::new(FaultyDisk::new(1, 64 << 20));
    drop(open(&disk));
    let register = open(&disk);
    register.note_durable(at(20));
    let chain = lock(&register.identity).chain.lives().to_vec();
    let directory = register.presence().directory;
    let admit = |life, held| {
        let known = Known { directory, ..remembered(life, 0, held) };
        register.admit(peer(2), shown(7, 1, 0, 0), &[(peer(1), known)])
    };
    assert_eq!(admit(chain[1].life, 20), Ok(()));
    assert_eq!(admit(chain[0].life, 0), Ok(()));
    let older = |known, held| Err(Refusal::OlderHere { peer: peer(2), known, held });
    assert_eq!(admit(chain[1].life, 21), older(21, Some(20)));
    assert_eq!(admit(chain[0].life, 1), older(1, Some(0)));
    assert_eq!(admit(1, 5), older(5, None), "a life that it never had");
}

#[test]
fn nobody_is_let_in_who_cannot_be_noted() {
    let disk = Arc::new(FaultyDisk::new(1, 64 << 20));
    let register = open(&disk);
    disk.fail_next(Operation::Sync);
    assert_eq!(register.admit(peer(2), shown(7, 3, 0, 0), &[]), Err(Refusal::NotNoted));
    let other = register.admit(peer(2), shown(8, 3, 0, 0), &[]);
    assert_eq!(other, Ok(()), "it was not let in before");
}

#[test]
fn a_guest_is_admitted_and_leaves_no_trace() {
    let disk = Arc::new(FaultyDisk::new(1, 64 << 20));
    let register = open(&disk);
    let before = disk.files();
    let (first, other) = (shown(7, 1, 0, 3), shown(8, 2, 0, 0));
    let knows = [(peer(3), remembered(9, 10, 11))];
    assert_eq!(register.admit(peer(9), first, &knows), Ok(()));
    register.met(peer(9), first);
    assert_eq!(register.newcomer(peer(9)), Some(first.directory));
    assert_eq!(register.heard(peer(9), at(5)), Ok(None), "nothing rests on it");
    register.left(peer(9));
    assert_eq!(register.newcomer(peer(9)), None);
    assert_eq!(register.admit(peer(9), other, &[]), Ok(()), "nobody has that number yet");
    assert!(register.introduce().knows.is_empty() && lock(&register.memory).told.is_empty());
    assert_eq!(disk.files(), before, "nothing was written");
}

#[test]
fn in_memory_a_guest_is_not_let_in_before_that_is_noted_either() {
    let notes = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&notes);
    let note = BeforeFirstPeer::new(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok(())
    });
    let register = in_memory().before_first_peer(Some(note));
    for number in [9, 2, 8] {
        assert_eq!(register.admit(peer(number), shown(0, 1, 0, 0), &[]), Ok(()));
        assert_eq!(notes.load(Ordering::Relaxed), 1);
    }
}

#[test]
fn a_guest_that_becomes_a_member_is_the_one_that_the_list_names() {
    let register = open(&Arc::new(FaultyDisk::new(1, 64 << 20)));
    let (right, wrong) = (shown(7, 1, 0, 3), shown(8, 2, 0, 0));
    for (number, shown) in [(5, right), (6, wrong)] {
        register.admit(peer(number), shown, &[]).unwrap();
        register.met(peer(number), shown);
    }
    let refused = |id| Refusal::OtherDirectory { id: peer(id), known: 7, theirs: 8 };
    let next = list(&[(1, 0), (2, 0), (5, 7), (6, 7)]);
    // Both have to say hello again: only then is written down whom this replica meets.
    let again = [(peer(5), Refusal::Replaced), (peer(6), refused(6))];
    assert_eq!(register.set_list(1, next, list(&[])), again);
    assert_eq!(register.heard(peer(5), at(4)), Ok(None), "it has not");
    assert!(register.is_impostor(peer(5)) && register.is_impostor(peer(6)));
    register.left(peer(5));
    register.admit(peer(5), right, &[]).unwrap();
    register.met(peer(5), right);
    assert!(!register.is_impostor(peer(5)));
    assert!(register.heard(peer(5), at(4)).unwrap().is_some(), "it counts from now on");
    assert_eq!(register.heard(peer(6), at(4)), Ok(None), "it does not");
    for id in [5, 6] {
        assert_eq!(register.admit(peer(id), wrong, &[]), Err(refused(id)));
        assert_eq!(register.admit(peer(id), right, &[]), Ok(()));
    }
    let Introduction { epoch, members, knows, .. } = register.introduce();
    assert_eq!((epoch, members), (Some(1), connected(&[1, 2, 5, 6])));
    assert_eq!(knows.iter().map(|(of, _)| *of).collect::<Vec<_>>(), [peer(5)]);
    // In memory, the list names a life.
    let register = in_memory();
    register.set_list(1, list(&[(1, 0), (5, 2)]), list(&[]));
    let refused = Refusal::OtherDirectory { id: peer(5), known: 2, theirs: 0 };
    assert_eq!(register.admit(peer(5), shown(0, 1, 0, 0), &[]), Err(refused));
    assert_eq!(register.admit(peer(5), shown(0, 2, 0, 0), &[]), Ok(()));
    assert_eq!(register.admit(peer(5), shown(0, 3, 0, 0), &[]), Err(Refusal::Forgetful(peer(5))));
}

#[test]
fn of_removed_members_nothing_is_kept() {
    let register = open(&Arc::new(FaultyDisk::new(1, 64 << 20)));
    for number in 2..=3 {
        let shown = shown(7, 4, 0, 3);
        let knows = [(peer(5 - number), remembered(4, 0, 3))];
        register.admit(peer(number), shown, &knows).unwrap();
        register.met(peer(number), shown);
        register.heard(peer(number), at(5)).unwrap();
    }
    assert_eq!(register.introduce().knows.len(), 2);
    register.set_list(1, list(&[(1, 0), (2, 0), (4, 0)]), list(&[]));
    assert_eq!(register.introduce().knows, [(peer(2), remembered(4, 0, 5))]);
    {
        let (identity, memory) = (lock(&register.identity), lock(&register.memory));
        assert_eq!(identity.met.keys().collect::<Vec<_>>(), [&peer(2)]);
        assert_eq!(memory.told, [(peer(2), BTreeMap::new())].into());
        assert_eq!(memory.shown.keys().collect::<Vec<_>>(), [&peer(2)]);
    }
    assert_eq!(register.heard(peer(3), at(9)), Ok(None), "it is a guest");
    assert_eq!(register.admit(peer(3), shown(1, 1, 0, 0), &[]), Ok(()));
}

#[test]
fn quorums_are_counted_among_the_members() {
    let register = in_memory();
    assert_eq!(register.missing(&connected(&[2, 9, 8])), 2, "guests are nobody's place");
    register.note_agreement(&connected(&[2, 9, 8]));
    assert!(!register.others_agree(), "that is two of four");
    register.note_agreement(&connected(&[2, 4]));
    assert!(register.others_agree());
    register.set_list(1, list(&[(1, 0), (9, 0)]), list(&[]));
    assert_eq!(register.missing(&connected(&[2, 9, 8])), 0);
}
