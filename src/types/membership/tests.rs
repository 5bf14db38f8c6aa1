//! Lists of members, and how one follows another.

use super::member_id as id;
use super::*;

fn member(number: u32) -> Member {
    let address = format!("10.0.0.{number}:7400").parse().expect("an address");
    Member { id: id(number), address, directory: u64::from(number) << 40 }
}

fn list(numbers: &[u32]) -> Membership {
    Membership::first(numbers.iter().map(|it| member(*it)).collect()).expect("a list")
}

fn numbers(list: &Membership) -> Vec<u32> {
    list.members().iter().map(|member| member.id.number()).collect()
}

#[test]
fn positions_follow_the_numbers_and_numbers_are_never_used_twice() {
    let one = list(&[3, 1, 2]);
    assert_eq!((numbers(&one), one.epoch()), (vec![1, 2, 3], 0));
    let two = one.after(&Change::Replace { old: id(2), new: member(4) }).expect("it is there");
    assert_eq!((numbers(&two), two.epoch()), (vec![1, 3, 4], 1));
    assert_eq!(two.position(id(3)), ReplicaId::new(2));
    assert_eq!(two.at(ReplicaId::from_index(2)), Some(id(4)));
    assert_eq!((two.position(id(2)), two.at(ReplicaId::from_index(3))), (None, None));
    let least = id(5);
    for used in [2, 4] {
        let again = two.after(&Change::Add(member(used)));
        assert_eq!(again, Err(BadChange::Used { given: id(used), least }));
    }
    let three = two.after(&Change::Remove(id(4))).expect("it is there");
    let again = three.after(&Change::Add(member(4)));
    assert_eq!(again, Err(BadChange::Used { given: id(4), least }), "it was a member once");
    assert_eq!(numbers(&three.after(&Change::Add(member(9))).expect("free")), [1, 3, 9]);
}

#[test]
fn a_number_is_of_one_directory() {
    let any = Member { directory: 0, ..member(1) };
    let list = Membership::first(vec![any, member(2)]).expect("a list");
    let (one, two) = (ReplicaId::new(1), ReplicaId::new(2));
    assert_eq!((list.position_of(id(1), 5), list.position_of(id(1), 0)), (one, one));
    assert_eq!(list.position_of(id(2), member(2).directory), two);
    assert_eq!((list.position_of(id(2), 5), list.position_of(id(3), 5)), (None, None));
}

#[test]
fn what_makes_no_sense_is_refused_with_the_reason() {
    let three = list(&[1, 2, 3]);
    let address = member(2).address;
    let moved =
        |number, address: &Address| Change::Move { id: id(number), address: address.clone() };
    let taken = Err(BadChange::Taken { at: id(2), address: address.clone() });
    assert_eq!(three.after(&moved(1, &address)), taken);
    let new = Member { id: id(4), address: address.clone(), directory: 4 };
    assert_eq!(three.after(&Change::Add(new.clone())), taken);
    assert_eq!(
        numbers(&three.after(&Change::Replace { old: id(2), new }).expect("its place")),
        [1, 3, 4]
    );
    let elsewhere = "r1.example.com:7400".parse().expect("a name");
    let after = three.after(&moved(1, &elsewhere)).expect("nobody is there");
    assert_eq!(after.members()[0], Member { address: elsewhere, ..member(1) });
    assert_eq!(three.after(&Change::Remove(id(7))), Err(BadChange::Unknown(id(7))));
    assert_eq!(list(&[5]).after(&Change::Remove(id(5))), Err(BadChange::Last(id(5))));
    let most = u32::try_from(MAX_REPLICAS).expect("few");
    let full = list(&(1..=most).collect::<Vec<_>>());
    assert_eq!(full.after(&Change::Add(member(most + 1))), Err(BadChange::TooMany));
    assert!(Membership::first(Vec::new()).is_err());
    assert!(Membership::first(vec![member(1), member(1)]).is_err());
}

#[test]
fn a_list_is_read_as_it_was_written_and_a_command_names_its_epoch() {
    let most = u32::try_from(MAX_REPLICAS).expect("few");
    let full = list(&(1..=most).collect::<Vec<_>>());
    for list in [list(&[1]), full.after(&Change::Remove(id(2))).expect("it is there")] {
        let bytes = list.to_bytes();
        assert!(bytes.len() < Membership::MAX_BYTES);
        assert_eq!(Membership::from_bytes(&bytes), Ok(list));
        for cut in 0..bytes.len() {
            assert!(Membership::from_bytes(&bytes[..cut]).is_err(), "{cut}");
        }
        assert!(Membership::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
        let later = [&[Membership::OBSERVED + 1], &bytes[1..]].concat();
        assert_eq!(Membership::from_bytes(&later), Err(BadMembership("another version wrote it")));
    }
    let next = full.after(&Change::Remove(id(2))).expect("it is there");
    let command = next.command(ReplicaId::from_index(0));
    assert_eq!(Membership::begun_by(&command, 0), Some(Ok(next.clone())));
    assert_eq!(Membership::begun_by(&command, 1), None, "that epoch is over");
    let mut wrong = command.clone();
    wrong.payload = full.to_bytes();
    assert!(matches!(Membership::begun_by(&wrong, 0), Some(Err(_))));
    wrong.request = RequestId::new(ClientId(1), 1);
    assert_eq!(Membership::begun_by(&wrong, 0), None);
}

#[test]
fn an_observer_has_a_number_and_no_position() {
    let three = list(&[1, 2, 3]);
    let observed = three.after(&Change::Observe(member(4))).expect("it is new");
    assert_eq!((numbers(&observed), observed.len(), observed.highest()), (vec![1, 2, 3], 3, id(4)));
    assert_eq!((observed.position(id(4)), observed.is_observer(id(4))), (None, true));
    assert_eq!(observed.position_of(id(4), member(4).directory), None);
    let directory = member(4).directory;
    assert!(observed.is_observed_by(id(4), directory) && !observed.is_observed_by(id(4), 5));
    assert_eq!(observed.to_string(), "r1, r2, r3; observers r4");
    let place = ReplicaId::from_index(3);
    assert_eq!(
        (observed.place_of_observer(id(4)), observed.at_place(place)),
        (Some(place), Some(id(4)))
    );
    assert_eq!(observed.at(place), None);
    let used = BadChange::Used { given: id(4), least: id(5) };
    for again in [Change::Add(member(4)), Change::Observe(member(4))] {
        assert_eq!(observed.after(&again), Err(used.clone()));
    }
    let address = member(4).address;
    let taken = Err(BadChange::Taken { at: id(4), address: address.clone() });
    assert_eq!(observed.after(&Change::Move { id: id(1), address: address.clone() }), taken);
    let moved = observed.after(&Change::Move { id: id(4), address: member(9).address });
    assert_eq!(moved.expect("nobody is there").observers()[0].address, member(9).address);
    let removed = observed.after(&Change::Remove(id(4))).expect("it is there");
    assert_eq!((removed.observers().len(), removed.highest()), (0, id(4)));
    let replaced = observed.after(&Change::Replace { old: id(4), new: member(6) });
    let replaced = replaced.expect("it is there");
    assert_eq!((replaced.len(), replaced.observers()), (3, &[member(6)][..]));
    assert_eq!(observed.after(&Change::Promote(id(1))), Err(BadChange::NoObserver(id(1))));
    assert_eq!(observed.after(&Change::Promote(id(7))), Err(BadChange::Unknown(id(7))));
    let next = replaced.after(&Change::Add(member(8))).expect("it is new");
    let promoted = next.after(&Change::Promote(id(6))).expect("it observes");
    assert_eq!((numbers(&promoted), promoted.observers().len()), (vec![1, 2, 3, 6, 8], 0));
    let one = list(&[1]).after(&Change::Observe(member(2))).expect("it is new");
    assert_eq!(one.after(&Change::Remove(id(1))), Err(BadChange::Last(id(1))), "no vote is left");
    let most = u32::try_from(MAX_REPLICAS).expect("few");
    let full = list(&(1..=most).collect::<Vec<_>>());
    assert_eq!(full.after(&Change::Observe(member(most + 1))), Err(BadChange::TooMany));
}

#[test]
fn a_list_with_observers_has_an_encoding_of_its_own() {
    let three = list(&[1, 2, 3]);
    assert_eq!(three.to_bytes()[0], Membership::VERSION, "as without observers");
    let two = three.after(&Change::Observe(member(5))).expect("it is new");
    let two = two.after(&Change::Observe(member(7))).expect("it is new");
    let bytes = two.to_bytes();
    assert_eq!(bytes[0], Membership::OBSERVED);
    assert_eq!(Membership::from_bytes(&bytes), Ok(two.clone()));
    for cut in 0..bytes.len() {
        assert!(Membership::from_bytes(&bytes[..cut]).is_err(), "{cut}");
    }
    let none = two.after(&Change::Remove(id(5))).and_then(|it| it.after(&Change::Remove(id(7))));
    assert_eq!(none.expect("they are there").to_bytes()[0], Membership::VERSION);
    let claims = [&[Membership::OBSERVED], &three.to_bytes()[1..], &[0]].concat();
    assert!(Membership::from_bytes(&claims).is_err(), "a list has one encoding");
    let twice = Membership { observers: vec![member(2)], ..three };
    assert!(Membership::from_bytes(&twice.to_bytes()).is_err(), "one number twice");
}
