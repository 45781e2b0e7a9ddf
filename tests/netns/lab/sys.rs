//! The system calls of the laboratory that no safe crate offers: making a TAP,
//! binding an AF_PACKET socket, and what a child does before it execs.
//!
//! Must not know hosts, switches or daemons.

#![expect(
    unsafe_code,
    reason = "TUNSETIFF, sockaddr_ll and pre_exec have no safe wrapper among our dependencies"
)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

const IFF_TAP: i16 = 0x0002;
const IFF_NO_PI: i16 = 0x1000;
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;

/// `struct ifreq` as TUNSETIFF reads it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

/// Makes a TAP named `name` in the calling thread's network namespace, without
/// offloads; it lives as long as the file. Reads and writes do not block.
pub(crate) fn open_tap(name: &str) -> io::Result<File> {
    assert!(name.len() < 16, "an interface name has at most 15 bytes");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    let mut request = InterfaceRequest {
        name: [0; 16],
        flags: IFF_TAP | IFF_NO_PI,
        rest: [0; 22],
    };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the descriptor is open and `request` is as long as an ifreq.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) })?;
    // SAFETY: TUNSETOFFLOAD takes its flags by value.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETOFFLOAD, 0) })?;
    Ok(file)
}

/// Binds an AF_PACKET socket to one interface, for every protocol.
pub(crate) fn bind_packet(socket: &OwnedFd, interface: u32) -> io::Result<()> {
    // SAFETY: all zero is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = interface as i32;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `address`.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })
}

/// `struct ifreq` as SIOCETHTOOL reads it.
#[repr(C)]
struct EthtoolRequest {
    name: [u8; 16],
    value: *mut EthtoolValue,
    rest: [u8; 16],
}

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Switches the offloads of an interface of the calling thread's network
/// namespace: checksums and segmentation of what it sends (ethtool's `tx`,
/// `tso`, `gso`), and joining of what it receives (`gro`).
pub(crate) fn set_offloads(interface: &str, on: bool) -> io::Result<()> {
    let mut commands = [0x17, 0x1f, 0x24, 0x2c];
    if !on {
        // Segmentation needs the checksums.
        commands.reverse();
    }
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    for command in commands {
        let mut value = EthtoolValue {
            command,
            data: on.into(),
        };
        let mut request = EthtoolRequest {
            name: [0; 16],
            value: &raw mut value,
            rest: [0; 16],
        };
        request.name[..interface.len()].copy_from_slice(interface.as_bytes());
        // SAFETY: the descriptor is open, `request` is as long as an ifreq, and
        // `value` outlives the call.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) })?;
    }
    Ok(())
}

/// What a child does between fork and exec.
#[derive(Default)]
pub(crate) struct Entry {
    /// The network namespace it enters.
    pub(crate) net: Option<OwnedFd>,
    /// The mount namespace it enters.
    pub(crate) mnt: Option<OwnedFd>,
    /// The user and group it becomes.
    pub(crate) user: Option<u32>,
}

/// Makes `command` enter namespaces, change user, and die with the thread
/// that spawns it: a killed test leaves no daemon behind.
pub(crate) fn enter_before_exec(command: &mut Command, entry: Entry) {
    let prepare = move || {
        if let Some(net) = &entry.net {
            // SAFETY: setns is a plain system call on an open descriptor.
            check(unsafe { libc::setns(net.as_raw_fd(), libc::CLONE_NEWNET) })?;
        }
        if let Some(mnt) = &entry.mnt {
            // SAFETY: as above; after fork the child shares its root with nobody.
            check(unsafe { libc::setns(mnt.as_raw_fd(), libc::CLONE_NEWNS) })?;
        }
        if let Some(user) = entry.user {
            // SAFETY: plain system calls; the child has one thread.
            unsafe {
                check(libc::setgroups(0, std::ptr::null()))?;
                check(libc::setresgid(user, user, user))?;
                check(libc::setresuid(user, user, user))?;
            }
        }
        // Last, because a change of user clears it.
        // SAFETY: prctl with integers only.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) })
    };
    // SAFETY: `prepare` makes system calls only; it allocates and locks nothing.
    unsafe { command.pre_exec(prepare) };
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
