//! Containers that share a namespace: it has its addresses as long as one of them lives,
//! by whichever it was attached.

use std::{
    io::{BufRead, BufReader},
    net::Ipv4Addr,
    process::{Child, Command, Stdio},
    thread,
};

use hickory_proto::rr::RecordType::A;

use crate::ipam::ipam;
use crate::lab::probe::{ping_within, resolve};
use crate::lab::{Container, Host, Lab, ensure, eventually, secs};
use crate::runtimes::{two_hosts, wait_name, wait_used};

/// A process that does nothing in a container's namespace, with files of its own.
fn process_in(container: &Container) -> Child {
    let script = "mount -t tmpfs none /etc && echo ready && exec sleep 600";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]);
    command.stdout(Stdio::piped());
    container.netns.place(&mut command, None);
    let mut child = command.spawn().expect("`unshare` is there");
    let mut line = String::new();
    let out = child.stdout.take().expect("it is a pipe");
    let read = BufReader::new(out).read_line(&mut line);
    read.expect("it says something");
    assert_eq!(line, "ready\n");
    child
}

fn end(mut process: Child) {
    process.kill().expect("it runs until now");
    process.wait().expect("it can be waited for");
}

#[track_caller]
fn attach_by(host: &Host, process: &Child, options: &[&str]) -> Ipv4Addr {
    let pid = process.id().to_string();
    let text = host.ok(&[&["attach", "--pid", &pid], options].concat());
    let address = text.split('/').next().and_then(|first| first.parse().ok());
    address.unwrap_or_else(|| panic!("no address: {text}"))
}

fn path_of(process: &Child) -> String {
    format!("/proc/{}/ns/net", process.id())
}

/// Until the one thing attached is known by a process, with its address.
fn wait_known_by(host: &Host, process: &Child, address: Ipv4Addr) {
    let path = path_of(process);
    eventually(secs(15), &format!("{path} has {address}"), || {
        let listed = host.json(&["ps"])?;
        let is_it = |a: &serde_json::Value| {
            let mut addresses = a["addresses"].as_array().into_iter().flatten();
            let has = |net: &serde_json::Value| {
                net.as_str()
                    .is_some_and(|net| net.starts_with(&format!("{address}/")))
            };
            a["netns"] == path && addresses.any(has)
        };
        match listed.as_array().map(Vec::as_slice) {
            Some([one]) if is_it(one) => Ok(()),
            _ => Err(listed.to_string()),
        }
    });
    wait_used(host, 1);
}

#[test]
fn a_namespace_outlives_the_process_by_which_it_was_attached() {
    let lab = Lab::new();
    let (a, _b, far) = two_hosts(&lab);
    let inside = Container::new(2);
    let first = process_in(&inside);
    let address = attach_by(&a, &first, &["--dns", "--name", "web"]);
    let well = |process: &Child| {
        wait_known_by(&a, process, address);
        ping_within(secs(15), &far.netns, address);
        wait_name(&far, "web", &[address]);
        eventually(secs(15), "names are answered inside", || {
            resolve(&inside.netns, "far.wove.local.", A)
        });
    };
    well(&first);

    // A restarted container, attached again before anybody has looked.
    let second = process_in(&inside);
    end(first);
    assert_eq!(attach_by(&a, &second, &[]), address);
    well(&second);

    // Nobody says anything.
    let third = process_in(&inside);
    end(second);
    well(&third);

    // Or can.
    let fourth = process_in(&inside);
    a.kill();
    end(third);
    a.relaunch();
    well(&fourth);

    a.ok(&["detach", "--pid", &fourth.id().to_string()]);
    wait_used(&a, 0);
    wait_name(&far, "web", &[]);
    end(fourth);
}

#[test]
fn attaching_twice_at_once_is_attaching_once() {
    let lab = Lab::new();
    let (a, _b, far) = two_hosts(&lab);
    let inside = Container::new(2);
    let processes = [process_in(&inside), process_in(&inside)];
    let addresses: Vec<Ipv4Addr> = thread::scope(|scope| {
        let attach = |process| {
            let host = &a;
            scope.spawn(move || attach_by(host, process, &[]))
        };
        let all: Vec<_> = processes.iter().chain(&processes).map(attach).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Ipv4Addr>| thread.join();
        all.into_iter()
            .map(|thread| join(thread).expect("an attach does not fail"))
            .collect()
    });
    let address = addresses[0];
    ensure(
        addresses.iter().all(|other| *other == address),
        format_args!("{addresses:?}"),
    );
    wait_used(&a, 1);
    ping_within(secs(15), &far.netns, address);
    assert_eq!(ipam(&a)["used"].as_u64(), Some(1));
    processes.into_iter().for_each(end);
}
