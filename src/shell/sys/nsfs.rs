//! The ioctl of namespace files (`ioctl_nsfs(2)`).
#![expect(unsafe_code, reason = "what kind a namespace is, only ioctl says")]

use std::{fs::File, io, os::fd::AsRawFd};

use nix::{errno::Errno, sched::CloneFlags};

/// Which kind of namespace a file of nsfs is: the flag by which clone(2) makes one.
/// `ENOTTY` when it is no such file.
pub(in crate::shell) fn kind(file: &File) -> io::Result<CloneFlags> {
    // SAFETY: the descriptor is open and NS_GET_NSTYPE has no argument.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), libc::NS_GET_NSTYPE) };
    Ok(CloneFlags::from_bits_retain(Errno::result(kind)?))
}
