//! Threads: their maximum number, their end, and a completion for every call.

use super::*;
use std::collections::HashSet;

impl Pool {
    fn threads(&self) -> usize {
        self.workers.0.lock().threads
    }
}

#[test]
fn every_call_completes_and_wakes() {
    let address = answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
    let pool = Pool::to(address);
    let numbers = 0..500;
    for number in numbers.clone() {
        pool.workers.submit(call(number, (number % 2 == 0).then_some(Detail::ClientTimeout)));
    }
    let mut seen = HashSet::new();
    for _ in numbers.clone() {
        let completion = pool.next();
        assert_eq!(completion.outcome, answered(200, Some("{}")));
        assert!(seen.insert(completion.id.slot()));
    }
    assert_eq!(seen, numbers.collect());
    assert!(pool.completions.try_recv().is_err());
    assert!(pool.threads() <= 8);
    // The last wake follows its completion.
    eventually("500 wakes", || pool.wakes.load(Ordering::SeqCst) == 500);
}

#[test]
fn no_more_calls_in_flight_than_threads() {
    let (address, script) = backend(|listener| {
        // Three requests arrive before any is answered; the other two only after that.
        let mut streams: Vec<TcpStream> = (0..3).map(|_| listener.accept().unwrap().0).collect();
        for stream in &mut streams {
            read_request(stream).unwrap();
        }
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let answer = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
        for mut stream in streams {
            stream.write_all(answer).unwrap();
        }
        listener.set_nonblocking(false).unwrap();
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            read_request(&mut stream).unwrap();
            stream.write_all(answer).unwrap();
        }
    });
    let pool = Pool::new(&format!("http://{address}/"), Options { threads_max: 3, ..Options::default() });
    for number in 0..5 {
        pool.workers.submit(call(number, None));
    }
    for _ in 0..5 {
        assert_eq!(pool.next().outcome, answered(204, Some("")));
    }
    assert!(pool.threads() <= 3);
    script.join().unwrap();
}

#[test]
fn idle_threads_end_and_new_ones_start() {
    let address = answering("HTTP/1.1 204 No Content\r\n\r\n");
    let moment = Duration::from_millis(1);
    let idle_timeouts = IdleTimeouts { usual: moment, last: moment };
    let pool = Pool::new(&format!("http://{address}/"), Tuning { idle_timeouts, ..Tuning::default() });
    for _ in 0..3 {
        assert_eq!(pool.call(), answered(204, Some("")));
        eventually("no thread is left", || pool.threads() == 0);
    }
}

#[test]
fn one_idle_thread_stays_for_the_next_call() {
    let (address, script) = backend(|listener| {
        // Four threads, since no request is answered before all have arrived.
        let mut streams: Vec<TcpStream> = (0..4).map(|_| listener.accept().unwrap().0).collect();
        for stream in &mut streams {
            read_request(stream).unwrap();
        }
        for mut stream in streams {
            stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").unwrap();
        }
    });
    let idle_timeouts = IdleTimeouts { usual: Duration::from_millis(1), last: LONG };
    let pool = Pool::new(&format!("http://{address}/"), Tuning { idle_timeouts, ..Tuning::default() });
    for number in 0..4 {
        pool.workers.submit(call(number, None));
    }
    for _ in 0..4 {
        assert_eq!(pool.next().outcome, answered(204, Some("")));
    }
    script.join().unwrap();
    eventually("one thread is left", || pool.threads() == 1);
    assert_eq!(pool.workers.0.lock().idle.len(), 1);
}

#[test]
fn queued_calls_outlive_the_pool() {
    let address = answering("HTTP/1.1 204 No Content\r\n\r\n");
    let Pool { workers, completions, .. } =
        Pool::new(&format!("http://{address}/"), Options { threads_max: 1, ..Options::default() });
    for number in 0..10 {
        workers.submit(call(number, None));
    }
    drop(workers);
    let outcomes: Vec<Outcome> = completions.iter().map(|completion| called(completion).outcome).collect();
    // The channel closes only when the last thread has ended.
    assert_eq!(outcomes, vec![answered(204, Some("")); 10]);
}

#[test]
fn without_any_thread_calls_fail_at_once() {
    let address = answering("HTTP/1.1 204 No Content\r\n\r\n");
    // No machine has enough memory for such a stack.
    let stack_bytes = 1 << 60;
    let pool = Pool::new(&format!("http://{address}/"), Tuning { stack_bytes, ..Tuning::default() });
    for _ in 0..3 {
        assert_eq!(pool.call(), Outcome::Unavailable { written: false });
    }
    assert_eq!(pool.wakes.load(Ordering::SeqCst), 3);
}
