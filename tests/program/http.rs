//! A server on the host's loopback device, for guests on a user network.

use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

/// An HTTP server on the loopback device, until it is dropped.
pub struct Server {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Longer than a window of TCP, so that it comes in many packets.
pub fn page() -> Vec<u8> {
    (0..5000).flat_map(|number| format!("row {number} of the page\n").into_bytes()).collect()
}

/// The line that a guest prints which got the page.
pub fn page_line() -> String {
    let digest: String = Sha256::digest(page()).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("page {digest}")
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let (mut request, mut byte) = (vec![], [0]);
    while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte)? == 1 {
        request.extend(byte);
    }
    let page = page();
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", page.len())?;
    stream.write_all(&page)
}

impl Server {
    pub fn start() -> Server {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if told.load(Relaxed) {
                    return;
                }
                if let Err(error) = stream.and_then(answer) {
                    eprintln!("server: {error}");
                }
            }
        });
        Server { address, over, thread: Some(thread) }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        // A last visitor, so that it looks.
        let visit = TcpStream::connect(self.address);
        if let (Ok(_), Some(thread)) = (visit, self.thread.take()) {
            let _ = thread.join();
        }
    }
}
