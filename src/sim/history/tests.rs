//! The file's exact format, and a recorder whose times order the events.

use std::sync::Arc;
use std::thread;

use proptest::prelude::*;

use super::*;

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[test]
fn the_file_is_as_outside_checkers_expect_it() {
    let recorder = Recorder::new();
    let at = Time::from_nanos;
    let (one, two) = (recorder.client(), recorder.client());
    let put = recorder.call(at(10), one, text("x"), Call::Put(text("a")));
    let get = recorder.call(at(11), two, text("x"), Call::Get);
    recorder.answer(put, at(20), Outcome::Ok(Answer::Done));
    recorder.answer(get, at(20), Outcome::Ok(Answer::Value(None)));
    let call = Call::Cas { expected: Some(text("b")), value: text("c") };
    let cas = recorder.call(at(30), one, text("x"), call);
    recorder.answer(cas, at(31), Outcome::Ok(Answer::Mismatch(Some(text("a")))));
    let del = recorder.call(at(32), one, text("x"), Call::Del);
    recorder.answer(del, at(33), Outcome::Ok(Answer::Deleted(true)));
    let call = Call::Cas { expected: None, value: Bytes::from_static(&[0xff, 0]) };
    let cas = recorder.call(at(40), one, text("hex:"), call);
    recorder.answer(cas, at(41), Outcome::Fail);
    let _ = recorder.call(at(50), two, text("x"), Call::Del);

    let history = recorder.into_history();
    let mut file = Vec::new();
    write_history(&history, &mut file).unwrap();
    let lines = [
        r#"{"c":1,"k":"x","op":"put","v":"a","old":null,"call":10,"ret":20,"out":null,"#,
        r#""ok":true,"st":"ok"}"#,
        "\n",
        r#"{"c":2,"k":"x","op":"get","v":null,"old":null,"call":11,"ret":21,"out":null,"#,
        r#""ok":true,"st":"ok"}"#,
        "\n",
        r#"{"c":1,"k":"x","op":"cas","v":"c","old":"b","call":30,"ret":31,"out":"a","#,
        r#""ok":false,"st":"ok"}"#,
        "\n",
        r#"{"c":1,"k":"x","op":"del","v":null,"old":null,"call":32,"ret":33,"out":null,"#,
        r#""ok":true,"st":"ok"}"#,
        "\n",
        r#"{"c":1,"k":"hex:6865783a","op":"cas","v":"hex:ff00","old":null,"call":40,"ret":41,"#,
        r#""out":null,"ok":false,"st":"fail"}"#,
        "\n",
        r#"{"c":2,"k":"x","op":"del","v":null,"old":null,"call":50,"ret":-1,"out":null,"#,
        r#""ok":false,"st":"info"}"#,
        "\n",
    ];
    assert_eq!(String::from_utf8(file.clone()).unwrap(), lines.concat());
    assert_eq!(read_history(&file[..]).unwrap(), history);
}

#[test]
fn lines_that_are_no_operations_are_named() {
    let reason = |line: &str| {
        let file = format!("\n{line}\n");
        read_history(file.as_bytes()).expect_err(line).to_string()
    };
    assert!(reason("{").starts_with("line 2 of the history: EOF"));
    let line = |op, ret, v, st| {
        format!(
            r#"{{"c":1,"k":"x","op":"{op}","v":{v},"call":5,"ret":{ret},"ok":true,"st":"{st}"}}"#
        )
    };
    let cases = [
        (line("put", 6, "null", "ok"), "a put or cas needs `v`"),
        (line("get", -2, "null", "info"), "`ret` is a time or -1"),
        (line("get", -1, "null", "ok"), "`ok` needs `ret`"),
        (line("get", 4, "null", "ok"), "it returned before it was called"),
        (line("put", 6, r#""hex:0""#, "ok"), r#""hex:0" is not hexadecimal"#),
        (line("put", 6, r#""hex:+1""#, "ok"), r#""hex:+1" is not hexadecimal"#),
    ];
    for (line, expected) in cases {
        assert_eq!(reason(&line), format!("line 2 of the history: {expected}"));
    }
}

#[test]
fn times_from_many_threads_order_what_happened() {
    let recorder = Arc::new(Recorder::new());
    let threads = (0..4).map(|_| {
        let recorder = Arc::clone(&recorder);
        thread::spawn(move || {
            let client = recorder.client();
            for _ in 0..500 {
                // The clock stands still, so only the recorder orders the events.
                let asked = recorder.call(Time::ZERO, client, text("x"), Call::Get);
                recorder.answer(asked, Time::ZERO, Outcome::Ok(Answer::Value(None)));
            }
        })
    });
    threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
    let history = recorder.history();
    let ends = |it: &Operation| [it.called, it.returned.unwrap()];
    let mut times: Vec<u64> = history.iter().flat_map(ends).collect();
    assert_eq!(times.len(), 4 * 500 * 2);
    for client in 1..=4 {
        let own = history.iter().filter(|it| it.client == client).flat_map(ends);
        assert!(own.is_sorted(), "a client does one thing after the other");
    }
    times.sort_unstable();
    assert_eq!(times, (1..=4_000).collect::<Vec<u64>>(), "no two events at one time");
}

#[test]
#[should_panic(expected = "is no answer to Get")]
fn an_answer_to_another_question_is_a_mistake() {
    let recorder = Recorder::new();
    let asked = recorder.call(Time::ZERO, 1, text("x"), Call::Get);
    recorder.answer(asked, Time::ZERO, Outcome::Ok(Answer::Done));
}

proptest! {
    #[test]
    fn any_bytes_have_a_text_of_their_own(bytes in prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..8),
        "(hex:)?[0-9a-z]{0,4}".prop_map(String::into_bytes),
    ]) {
        prop_assert_eq!(from_text(&to_text(&bytes)), Ok(Bytes::from(bytes)));
    }
}
