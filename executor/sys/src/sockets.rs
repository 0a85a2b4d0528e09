//! Who listens where: the sockets of the caller's network namespace as proc_net(5) lists them, and
//! the processes that hold them. It reads and touches nothing: no port is bound to find out.

use crate::{Context, Result, netlink};
use netlink_packet_core::Parseable;
use netlink_packet_sock_diag::{
    SockDiagMessage,
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, BorrowedFd},
};

/// `IPPROTO_TCP`.
pub const TCP: u8 = 6;
/// `IPPROTO_UDP`.
pub const UDP: u8 = 17;

/// The most bytes that are read of one listing: some hundred thousand sockets.
pub const MAX_LISTING: u64 = 64 << 20;

/// The most descriptors of processes that are looked at.
const MAX_DESCRIPTORS: usize = 1 << 20;

/// A socket that takes what comes to its port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Listening {
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// An IPv4 address also where the socket is one of IPv6 that is bound to it
    /// (`::ffff:127.0.0.1`).
    pub address: IpAddr,
    /// Bound to `::`, and to none of IPv4 (`IPV6_V6ONLY`). Without it `::` is every address of both
    /// families.
    pub v6_only: bool,
    /// Its port.
    pub port: u16,
    /// By which its [`holders`] are found.
    pub inode: u64,
    /// Whose it is.
    pub uid: u32,
}

/// A process that has a socket open.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Holder {
    /// Its pid.
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
    /// As `ps` shows it: at most 15 bytes.
    pub name: String,
}

/// TCP sockets that listen and UDP sockets that are bound and not connected, at one of `ports`, among
/// those in the first `most` bytes of each listing, where those of TCP that listen come first.
/// Blocking.
///
/// # Errors
/// When a listing can't be read. One that is not there belongs to a protocol the kernel does not
/// have.
pub fn listening(ports: &BTreeSet<(u8, u16)>, most: u64) -> Result<BTreeSet<Listening>> {
    let mut found = BTreeSet::new();
    for (file, protocol) in [("tcp", TCP), ("tcp6", TCP), ("udp", UDP), ("udp6", UDP)] {
        let text = listing(file, most)?;
        let read = text.lines().filter_map(|line| read_line(line, protocol));
        let mut read: Vec<_> = read
            .filter(|socket| ports.contains(&(protocol, socket.port)))
            .collect();
        // The listings do not say it, so those that it matters for are asked for.
        let is_any = |socket: &Listening| socket.address == Ipv6Addr::UNSPECIFIED;
        if read.iter().any(is_any) {
            let v6_only = v6_only(protocol, ports);
            for socket in read.iter_mut().filter(|socket| is_any(socket)) {
                socket.v6_only = v6_only.contains(&socket.inode);
            }
        }
        found.extend(read);
    }
    Ok(found)
}

/// The inodes of the sockets of IPv6 at one of `ports` that take nothing of IPv4, as sock_diag(7) says.
/// None where the kernel can't be asked: then each is thought to take both.
fn v6_only(protocol: u8, ports: &BTreeSet<(u8, u16)>) -> BTreeSet<u64> {
    let request = SockDiagMessage::InetRequest(InetRequest {
        family: libc::AF_INET6 as u8,
        protocol,
        extensions: ExtensionFlags::empty(),
        states: match protocol {
            TCP => StateFlags::LISTEN,
            _ => StateFlags::CLOSE,
        },
        socket_id: SocketId::new_v6(),
    });
    let dump = |socket: netlink::Socket| {
        socket.dump(request, |found: &mut BTreeSet<u64>, _, payload| {
            let Ok(socket) = InetResponse::parse(payload) else {
                return;
            };
            let at = (protocol, socket.header.socket_id.source_port);
            if ports.contains(&at) && socket.nlas.contains(&Nla::SkV6Only(true)) {
                found.insert(socket.header.inode.into());
            }
        })
    };
    netlink::Socket::open(libc::NETLINK_SOCK_DIAG as isize)
        .and_then(dump)
        .unwrap_or_default()
}

fn listing(name: &str, most: u64) -> Result<String> {
    // Of the calling thread: the process's first one may be in another network namespace.
    let path = format!("/proc/thread-self/net/{name}");
    let file = match fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error).doing(|| format!("read {path}")),
    };
    let mut bytes = Vec::new();
    file.take(most)
        .read_to_end(&mut bytes)
        .doing(|| format!("read {path}"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A line of `/proc/net/{tcp,tcp6,udp,udp6}`: number, local address, peer, state, …, the user as the
/// eighth word, and the inode as the tenth.
fn read_line(line: &str, protocol: u8) -> Option<Listening> {
    /// `TCP_LISTEN`; a socket of UDP that is not connected is `TCP_CLOSE`.
    const LISTEN: &str = "0A";
    const UNCONNECTED: &str = "07";
    let words: Vec<&str> = line.split_whitespace().collect();
    let (local, state) = (words.get(1)?, words.get(3)?);
    if *state != if protocol == TCP { LISTEN } else { UNCONNECTED } {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    Some(Listening {
        protocol,
        address: read_address(address)?,
        v6_only: false,
        port: u16::from_str_radix(port, 16).ok()?,
        inode: words.get(9)?.parse().ok()?,
        uid: words.get(7)?.parse().ok()?,
    })
}

/// An address as the kernel prints it: words of 32 bits in the byte order of the machine, in
/// hexadecimal digits.
fn read_address(text: &str) -> Option<IpAddr> {
    let word = |index: usize| u32::from_str_radix(text.get(index * 8..index * 8 + 8)?, 16).ok();
    match text.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?.to_ne_bytes()))),
        32 => {
            let mut octets = [0; 16];
            for index in 0..4 {
                octets[index * 4..index * 4 + 4].copy_from_slice(&word(index)?.to_ne_bytes());
            }
            Some(IpAddr::V6(Ipv6Addr::from(octets)).to_canonical())
        }
        _ => None,
    }
}

/// The processes that have sockets open, by the sockets' inodes. One that is hidden from the
/// caller, or ends meanwhile, is not found. Blocking.
///
/// # Errors
/// When `/proc` can't be listed.
pub fn holders(inodes: &BTreeSet<u64>) -> Result<BTreeMap<u64, BTreeSet<Holder>>> {
    let mut found: BTreeMap<u64, BTreeSet<Holder>> = BTreeMap::new();
    if inodes.is_empty() {
        return Ok(found);
    }
    let links: BTreeMap<String, u64> = inodes
        .iter()
        .map(|inode| (format!("socket:[{inode}]"), *inode))
        .collect();
    let mut processes: BTreeMap<i32, Option<Holder>> = BTreeMap::new();
    let mut left = MAX_DESCRIPTORS;
    for process in fs::read_dir("/proc")
        .doing(|| "list the processes")?
        .flatten()
    {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        for descriptor in fs::read_dir(process.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten()
            .take(left)
        {
            left -= 1;
            let link = fs::read_link(descriptor.path()).unwrap_or_default();
            if let Some(inode) = link.to_str().and_then(|link| links.get(link)) {
                let known = processes.entry(pid).or_insert_with(|| holder(pid));
                found.entry(*inode).or_default().extend(known.clone());
            }
        }
    }
    Ok(found)
}

fn holder(pid: i32) -> Option<Holder> {
    let status = crate::read_small(format!("/proc/{pid}/status").as_ref()).ok()?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    };
    Some(Holder {
        pid,
        // Real, effective, saved and of the file system.
        uid: field("Uid")?.split_whitespace().nth(1)?.parse().ok()?,
        name: field("Name")?.trim().to_owned(),
    })
}

/// The processes that have the abstract Unix socket `name` open. Blocking.
///
/// # Errors
/// As [`holders`].
pub fn holders_of_abstract(name: &str) -> Result<BTreeSet<Holder>> {
    let text = listing("unix", MAX_LISTING)?;
    let inodes = text.lines().filter_map(|line| {
        // Address, references, protocol, flags, type, state, inode, path: an abstract one begins
        // with `@`.
        let words: Vec<&str> = line.split_whitespace().collect();
        (words.get(7)?.strip_prefix('@')? == name).then(|| words.get(6)?.parse().ok())?
    });
    Ok(holders(&inodes.collect())?
        .into_values()
        .flatten()
        .collect())
}

/// Has the kernel choose among `among` sockets of UDP that are bound to one address
/// (`SO_REUSEPORT`, in the order in which they were bound) by the sender's address alone, and not by
/// its port as well. `socket` is one of them.
///
/// # Errors
/// What `setsockopt(2)` gives.
pub fn spread_by_source(socket: BorrowedFd<'_>, v6: bool, among: u32) -> Result<()> {
    /// From here on offsets are those of the IP header (`SKF_NET_OFF`).
    const NETWORK_HEADER: u32 = (-0x10_0000i32) as u32;
    const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const REMAINDER: u16 = 0x94; // BPF_ALU | BPF_MOD | BPF_K
    const RETURN: u16 = 0x16; // BPF_RET | BPF_A
    let instruction = |code, k| libc::sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    };
    // The last four bytes of the source address (RFC 791, section 3.1; RFC 8200, section 3).
    let offset = if v6 { 20 } else { 12 };
    let mut filter = [
        instruction(LOAD_WORD, NETWORK_HEADER + offset),
        instruction(REMAINDER, among),
        instruction(RETURN, 0),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program points to the instructions above, of which there are so many, and both
    // outlive the call; the kernel copies them.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error()).doing(|| "choose sockets by the sender's address")
}

/// Makes a socket transparent (`IP_TRANSPARENT`, `IPV6_TRANSPARENT`), and with one that listens its
/// connections: rules know it by that. It takes CAP_NET_ADMIN or CAP_NET_RAW.
///
/// # Errors
/// What `setsockopt(2)` gives.
pub fn make_transparent(socket: BorrowedFd<'_>, v6: bool) -> Result<()> {
    let (level, option) = match v6 {
        false => (libc::SOL_IP, libc::IP_TRANSPARENT),
        true => (libc::SOL_IPV6, libc::IPV6_TRANSPARENT),
    };
    let on: libc::c_int = 1;
    // SAFETY: the option takes an integer, which is read during the call and outlives it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error()).doing(|| "make a socket transparent")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn listings_are_read_as_the_kernel_prints_them() {
        let read = |line: &str, protocol| {
            read_line(line, protocol).map(|one| (one.address.to_string(), one.port, one.inode))
        };
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        assert_eq!(read(head, TCP), None);
        let v4 = "   0: 0100007F:1389 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 66 1 0 100 0";
        assert_eq!(read(v4, TCP), Some(("127.0.0.1".to_owned(), 5001, 66)));
        assert_eq!(read(&v4.replace(" 0A ", " 01 "), TCP), None, "a connection");
        assert_eq!(
            read(&v4.replace(" 0A ", " 07 "), UDP),
            Some(("127.0.0.1".to_owned(), 5001, 66))
        );
        let v6 = |address: &str| {
            let peer = "00000000000000000000000000000000:0000";
            format!(
                "  1: {address}:0050 {peer} 0A 00000000:00000000 00:00000000 00000000  0 0 7 1 0 100 0 0 10 0"
            )
        };
        let text = |address| read(&v6(address), TCP).expect("reads").0;
        assert_eq!(text("00000000000000000000000000000000"), "::");
        assert_eq!(text("00000000000000000000000001000000"), "::1");
        assert_eq!(
            text("0000000000000000FFFF00000100007F"),
            "127.0.0.1",
            "a mapped address is one of IPv4"
        );
    }

    #[test]
    fn a_socket_of_ipv6_alone_is_known() {
        use rustix::net::{
            AddressFamily, SocketType, bind, listen, socket, sockopt::set_ipv6_v6only,
        };
        use std::net::SocketAddrV6;
        // One at a time, since both have every address of IPv6.
        for v6_only in [true, false] {
            for (kind, protocol) in [(SocketType::STREAM, TCP), (SocketType::DGRAM, UDP)] {
                let socket = socket(AddressFamily::INET6, kind, None).expect("a socket");
                set_ipv6_v6only(&socket, v6_only).expect("an option");
                bind(&socket, &SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0)).expect("bind");
                if protocol == TCP {
                    listen(&socket, 1).expect("listen");
                }
                let at = rustix::net::getsockname(&socket).expect("a name");
                let at = std::net::SocketAddr::try_from(at).expect("an address");
                let found = listening(&BTreeSet::from([(protocol, at.port())]), MAX_LISTING);
                let found: Vec<_> = found.expect("lists").into_iter().collect();
                let [one] = &found[..] else {
                    panic!("{found:?}")
                };
                assert_eq!(
                    (one.address, one.v6_only),
                    (IpAddr::from(Ipv6Addr::UNSPECIFIED), v6_only),
                    "{protocol}"
                );
            }
        }
    }

    #[test]
    fn who_listens_is_found_with_its_process() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = socket.local_addr().expect("bound").port();
        let found = listening(&BTreeSet::from([(TCP, port)]), MAX_LISTING).expect("lists");
        let [one] = found.iter().collect::<Vec<_>>()[..] else {
            panic!("{found:?}")
        };
        assert_eq!(
            (one.protocol, one.address.to_string(), one.port),
            (TCP, "127.0.0.1".to_owned(), port)
        );
        let holders = holders(&BTreeSet::from([one.inode])).expect("finds");
        let pids: Vec<i32> = holders[&one.inode]
            .iter()
            .map(|holder| holder.pid)
            .collect();
        assert_eq!(pids, [std::process::id() as i32]);
    }
}
