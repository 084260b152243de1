//! What a file descriptor stands for, in words: a path, a pipe, the two ends of a socket.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::value::escape;

/// Which way data goes through the descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// To the thread.
    In,
    /// From the thread.
    Out,
}

/// A socket, as `/proc/PID/net` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Socket {
    Listening(SocketAddr),
    Connected(SocketAddr, SocketAddr),
    Unix(String),
}

/// Descriptors of one process. Sockets are looked up once, when the first one is asked for.
#[derive(Debug)]
pub(super) struct Files {
    tgid: u32,
    sockets: Option<HashMap<u64, Socket>>,
}

impl Files {
    /// Descriptors of the process `tgid`.
    pub(super) fn of(tgid: u32) -> Self {
        Self { tgid, sockets: None }
    }

    /// `pipe:[123]`, `/var/log/app.log`, `socket 127.0.0.1:40112 <- 127.0.0.1:5432`; `fd 7` when it is closed.
    pub(super) fn describe(&mut self, fd: u64, direction: Direction) -> String {
        let Ok(link) = fs::read_link(format!("/proc/{}/fd/{}", self.tgid, fd as i32)) else {
            return format!("fd {}", fd as i32);
        };
        let link = link.to_string_lossy();
        let inode = link.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')?.parse().ok());
        let Some(inode) = inode else { return escape(&link) };
        let tgid = self.tgid;
        match self.sockets.get_or_insert_with(|| sockets(tgid)).get(&inode) {
            Some(Socket::Listening(local)) => format!("socket {local} listening"),
            Some(Socket::Connected(local, peer)) if direction == Direction::In => format!("socket {local} <- {peer}"),
            Some(Socket::Connected(local, peer)) => format!("socket {local} -> {peer}"),
            Some(Socket::Unix(path)) if path.is_empty() => format!("unix socket:[{inode}]"),
            Some(Socket::Unix(path)) => format!("unix socket {}", escape(path)),
            None => escape(&link),
        }
    }
}

/// By inode. Kinds of sockets the kernel does not list are missing.
fn sockets(tgid: u32) -> HashMap<u64, Socket> {
    let table = |name: &str| fs::read_to_string(format!("/proc/{tgid}/net/{name}")).unwrap_or_default();
    let mut found = HashMap::new();
    for name in ["tcp", "tcp6", "udp", "udp6"] {
        found.extend(table(name).lines().skip(1).filter_map(internet_socket));
    }
    found.extend(table("unix").lines().skip(1).filter_map(unix_socket));
    found
}

/// `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode ..`
fn internet_socket(line: &str) -> Option<(u64, Socket)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (local, peer) = (address(fields.get(1)?)?, address(fields.get(2)?)?);
    let inode = fields.get(9)?.parse().ok()?;
    let socket = if peer.port() == 0 { Socket::Listening(local) } else { Socket::Connected(local, peer) };
    Some((inode, socket))
}

/// `Num RefCount Protocol Flags Type St Inode Path`
fn unix_socket(line: &str) -> Option<(u64, Socket)> {
    let mut fields = line.split_whitespace();
    let inode = fields.nth(6)?.parse().ok()?;
    Some((inode, Socket::Unix(fields.collect::<Vec<_>>().join(" "))))
}

/// `0100007F:1F90`: each word of the address in the machine's byte order.
fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.split_once(':')?;
    let words: Option<Vec<u8>> = (0..host.len() / 8)
        .map(|i| u32::from_str_radix(host.get(8 * i..8 * i + 8)?, 16).ok().map(u32::to_ne_bytes))
        .collect::<Option<Vec<_>>>()
        .map(|words| words.concat());
    let bytes = words?;
    let ip = match bytes.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        _ => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)).to_canonical(),
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_tables_are_read() {
        let line = "   0: 0100007F:9CB0 0100007F:1538 01 00000000:00000000 00:00000000 00000000  1000        0 4242 1";
        let (inode, socket) = internet_socket(line).unwrap();
        assert_eq!(inode, 4242);
        let at = |text: &str| text.parse().unwrap();
        assert_eq!(socket, Socket::Connected(at("127.0.0.1:40112"), at("127.0.0.1:5432")));
        let mapped = address("0000000000000000FFFF00000100007F:0050").unwrap();
        assert_eq!(mapped, at("127.0.0.1:80"));
        assert_eq!(address("00000000000000000000000001000000:0050").unwrap(), at("[::1]:80"));
        let unix = unix_socket("0000000000000000: 00000002 00000000 00010000 0001 01 25837 /run/my app.sock").unwrap();
        assert_eq!(unix, (25837, Socket::Unix("/run/my app.sock".to_owned())));
        assert!(internet_socket("garbage").is_none());
    }
}
