//! Timed-out connects and their late answers.

use super::*;

const OK: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

/// A pool that awaits late answers to two connects, for that long.
fn pool(address: SocketAddr, time_max: Duration) -> Pool {
    let tuning = Tuning { late_time_max: time_max, ..Tuning::default() };
    Pool::new(&format!("http://{address}/"), Options { timeout: SHORT, late_max: 2, ..Options::from(tuning) })
}

/// The second outcome of a call to a backend that gives this answer once the call has timed out.
fn said(bytes: &'static [u8]) -> Outcome {
    let (say, when) = mpsc::channel::<()>();
    let (address, script) = backend(move |listener| {
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut stream).unwrap();
        when.recv().unwrap();
        stream.write_all(bytes).unwrap();
    });
    let pool = pool(address, LONG);
    assert_eq!(pool.call(), Outcome::Overdue);
    say.send(()).unwrap();
    let outcome = pool.next().outcome;
    script.join().unwrap();
    outcome
}

#[test]
fn a_late_answer_is_a_second_outcome() {
    assert_eq!(said(OK), answered(204, None));
    assert_eq!(said(b"HTTP/1.1 409 Conflict\r\nContent-Length: 9\r\n\r\n"), answered(409, None));
    assert_eq!(said(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\n\r\n"), answered(200, None));
    for broken in [b"".as_slice(), b"HTTP/1.1 2", b"garbage\r\n\r\n", b"HTTP/1.1 101 Switching Protocols\r\n\r\n"] {
        assert_eq!(said(broken), Outcome::Unavailable { written: true });
    }
}

#[test]
fn a_head_partly_in_time_and_partly_late_is_one_answer() {
    let (say, when) = mpsc::channel::<()>();
    let (address, script) = backend(move |listener| {
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut stream).unwrap();
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 O").unwrap();
        when.recv().unwrap();
        stream.write_all(b"K\r\n\r\n").unwrap();
    });
    let pool = pool(address, LONG);
    assert_eq!(pool.call(), Outcome::Overdue);
    say.send(()).unwrap();
    assert_eq!(pool.next().outcome, answered(200, None));
    script.join().unwrap();
}

#[test]
fn the_wait_is_limited_in_time_and_number_and_leaves_all_threads_to_others() {
    let (address, _forever) = backend(|listener| {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || while read_request(&mut stream).is_some() {});
        }
    });
    let time_max = Duration::from_millis(500);
    let tuning = Tuning { late_time_max: time_max, ..Tuning::default() };
    let options = Options { timeout: SHORT, threads_max: 1, late_max: 2, ..Options::from(tuning) };
    let pool = Pool::new(&format!("http://{address}/"), options);
    assert_eq!(pool.call(), Outcome::Overdue);
    assert_eq!(pool.call(), Outcome::Overdue);
    assert_eq!(pool.call(), Outcome::TimedOut { written: true }, "the third has no place");
    for _ in 0..2 {
        assert_eq!(pool.next().outcome, Outcome::TimedOut { written: true });
    }
    assert_eq!(pool.call(), Outcome::Overdue);
}

#[test]
fn late_answers_to_disconnects_are_not_awaited() {
    let (address, _forever) = backend(|listener| {
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut stream).unwrap();
        let _ = read_request(&mut stream);
    });
    let pool = pool(address, LONG);
    pool.workers.submit(call(1, Some(Detail::Shutdown)));
    assert_eq!(pool.next().outcome, Outcome::TimedOut { written: true });
}
