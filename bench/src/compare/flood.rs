//! Small datagrams, many to a system call, at a rate or as fast as they go.

use std::{
    io::{IoSlice, IoSliceMut, Write},
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    sys::socket::{
        MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg, setsockopt,
        sockopt::{RcvBufForce, SndBufForce},
    },
};

use super::options::{FloodReceive, FloodSend};

/// Datagrams in a system call. At low rates fewer, so that the flood itself is no burst.
const BATCH: usize = 32;
const BATCH_PACED: usize = 8;
/// Sleeping is not finer than this.
const NAP: Duration = Duration::from_micros(60);
const BUFFER: usize = 8 << 20;
/// The first datagram has come after this, or none will.
const PATIENCE: Duration = Duration::from_secs(15);
/// Silence that ends the flood.
const SILENCE: Duration = Duration::from_millis(400);

/// Sends, and says `SENT SECONDS`.
pub(super) fn send(options: &FloodSend, out: &mut dyn Write) -> Result<()> {
    let any: SocketAddr = match options.to {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(options.to)?;
    setsockopt(&socket, SndBufForce, &BUFFER).context("a large send buffer needs root")?;
    let payload = vec![0u8; usize::from(options.size)];
    let batch = if options.rate == 0 {
        BATCH
    } else {
        BATCH_PACED
    };
    let slices = vec![[IoSlice::new(&payload)]; batch];
    let nowhere: Vec<Option<SockaddrStorage>> = vec![None; batch];
    let mut headers = MultiHeaders::preallocate(batch, None);
    let (begun, mut sent) = (Instant::now(), 0u64);
    while begun.elapsed().as_secs_f64() < options.seconds {
        if options.rate > 0 {
            let due = (sent + batch as u64) as f64 / f64::from(options.rate);
            let wait = Duration::from_secs_f64(due).saturating_sub(begun.elapsed());
            if wait > NAP {
                thread::sleep(wait);
            } else if !wait.is_zero() {
                continue;
            }
        }
        match sendmmsg(
            socket.as_raw_fd(),
            &mut headers,
            &slices,
            &nowhere,
            [],
            MsgFlags::empty(),
        ) {
            Ok(results) => sent += results.count() as u64,
            // Nobody listens yet, or the queue is full: so it is lost.
            Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::ECONNREFUSED) => {}
            Err(error) => return Err(error).context("sending"),
        }
    }
    writeln!(out, "{sent} {:.4}", begun.elapsed().as_secs_f64())?;
    Ok(())
}

/// Says `ready`; counts until it is silent, and says `RECEIVED SECONDS`.
pub(super) fn receive(options: &FloodReceive, out: &mut dyn Write) -> Result<()> {
    let socket = UdpSocket::bind((options.at, options.port))?;
    setsockopt(&socket, RcvBufForce, &BUFFER).context("a large receive buffer needs root")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    writeln!(out, "ready")?;
    out.flush()?;
    let mut buffers = vec![[0u8; 2048]; BATCH];
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    let (mut received, mut first, mut last) = (0u64, None, Instant::now());
    loop {
        let mut slices: Vec<[IoSliceMut<'_>; 1]> = buffers
            .iter_mut()
            .map(|buffer| [IoSliceMut::new(buffer)])
            .collect();
        // Waits for one, takes what is there.
        let flags = MsgFlags::MSG_WAITFORONE;
        match recvmmsg(
            socket.as_raw_fd(),
            &mut headers,
            slices.iter_mut(),
            flags,
            None,
        ) {
            Ok(results) => received += results.count() as u64,
            Err(Errno::EAGAIN) => break,
            Err(error) => return Err(error).context("receiving"),
        }
        last = Instant::now();
        if first.is_none() {
            first = Some(last);
            socket.set_read_timeout(Some(SILENCE))?;
        }
    }
    let seconds = first.map_or(0.0, |first| (last - first).as_secs_f64());
    writeln!(out, "{received} {seconds:.4}")?;
    Ok(())
}
