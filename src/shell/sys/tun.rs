//! The ioctls of `/dev/net/tun` (Linux `Documentation/networking/tuntap.rst`).
#![expect(unsafe_code, reason = "TAP devices are configured by ioctl only")]

use std::{
    ffi::{c_int, c_uint},
    fs::File,
    io, mem,
    os::fd::AsRawFd,
};

/// The reader completes checksums, and cuts super-frames of TCP.
pub(in crate::shell) const OFFLOAD_TCP: c_uint =
    libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
/// The reader cuts super-frames of UDP, too; needs Linux 6.2.
pub(in crate::shell) const OFFLOAD_UDP: c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// Makes the TAP device `name` and `file` its queue (TUNSETIFF), with a virtio
/// header before each frame; gives the name the kernel chose. `EBUSY` when the
/// device exists already.
pub(in crate::shell) fn attach(file: &File, name: &str) -> io::Result<String> {
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_TUN_EXCL;
    // SAFETY: an all-zero ifreq is a valid value of this plain C struct.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    if name.len() > room {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    // IFF_TUN_EXCL is bit 15: the field is signed, the kernel reads it as bits.
    request.ifr_ifru.ifru_flags = flags as i16;
    // SAFETY: the descriptor is open and `request` is a valid ifreq that outlives the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    let given = request
        .ifr_name
        .iter()
        .take_while(|&&c| c != 0)
        .map(|c| c.cast_unsigned());
    String::from_utf8(given.collect()).map_err(io::Error::other)
}

/// Sets the length of the virtio header (TUNSETVNETHDRSZ), in bytes.
pub(in crate::shell) fn set_vnet_header(file: &File, bytes: usize) -> io::Result<()> {
    let size = c_int::try_from(bytes).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open and the kernel reads one int through the pointer.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) })
}

/// Tells the kernel which offloads the reader understands (TUNSETOFFLOAD, `TUN_F_*`); 0 for none.
pub(in crate::shell) fn set_offload(file: &File, offloads: c_uint) -> io::Result<()> {
    // SAFETY: the descriptor is open and the argument is a value, not a pointer.
    check(unsafe {
        libc::ioctl(
            file.as_raw_fd(),
            libc::TUNSETOFFLOAD,
            libc::c_ulong::from(offloads),
        )
    })
}

fn check(status: c_int) -> io::Result<()> {
    if status < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
