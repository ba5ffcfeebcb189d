//! A relay of TCP connections, whose target may change, as a load balancer or an address that moves.

use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// Relays to a port of this machine. Its threads end with its connections.
pub(crate) struct Relay {
    pub port: u16,
    target: Arc<AtomicU16>,
    /// Both sides of each connection, oldest first.
    connections: Arc<Mutex<Vec<[TcpStream; 2]>>>,
}

impl Relay {
    pub(crate) fn new(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let relay = Self { port, target: Arc::new(AtomicU16::new(target)), connections: Arc::default() };
        let (target, connections) = (Arc::clone(&relay.target), Arc::clone(&relay.connections));
        thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                let Ok(server) = TcpStream::connect(("127.0.0.1", target.load(Ordering::SeqCst))) else { continue };
                let copy = |socket: &TcpStream| socket.try_clone().expect("a copy");
                connections.lock().unwrap().push([copy(&client), copy(&server)]);
                for (mut from, mut to) in [(copy(&client), copy(&server)), (server, client)] {
                    thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                        let _ = from.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        relay
    }

    /// Later connections go there.
    pub(crate) fn lead_to(&self, target: u16) {
        self.target.store(target, Ordering::SeqCst);
    }

    /// Cuts all connections.
    pub(crate) fn cut(&self) {
        for socket in self.connections.lock().unwrap().drain(..).flatten() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Writes something to all clients, as if their servers had.
    pub(crate) fn interject(&self, bytes: &[u8]) {
        for [client, _] in self.connections.lock().unwrap().iter() {
            let mut client = client;
            client.write_all(bytes).expect("a connection");
        }
    }
}
