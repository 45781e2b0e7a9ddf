//! Names: known everywhere, gone with their container and host, answered inside
//! containers and to nobody else.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType::{self, A, AAAA, MX, PTR};

use crate::lab::probe::{Ask, INSIDE, ask_at, data, ping_within, resolve};
use crate::lab::{Container, Host, Lab, Netns, ensure, eventually, secs};

impl Host {
    fn attach_with(&self, container: &Container, options: &[&str]) {
        let (v4, v6) = container.cidrs();
        let path = container.path();
        self.ok(&[&["attach", "--netns", &path, &v4, &v6], options].concat());
    }

    /// What it says are the addresses of a name, or the names of an address.
    fn lookup(&self, name: &str) -> BTreeSet<String> {
        let output = self.cli(&["dns", "lookup", name]);
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(str::to_owned)
            .collect()
    }

    fn wait_lookup(&self, name: &str, expected: &[&str]) {
        let expected: BTreeSet<String> = expected.iter().map(|s| (*s).to_owned()).collect();
        eventually(
            secs(15),
            &format!("{} knows {name}", self.name),
            || match self.lookup(name) {
                found if found == expected => Ok(()),
                found => Err(format!("{found:?}")),
            },
        );
    }
}

fn wait_resolved(netns: &Netns, name: &str, kind: RecordType, expected: &[&str]) {
    eventually(secs(15), &format!("{name} is resolved"), || {
        let mut found = resolve(netns, name, kind)?;
        found.sort();
        if found == expected {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    });
}

fn code(netns: &Netns, name: &str, kind: RecordType) -> ResponseCode {
    let answer = ask_at(netns, INSIDE, Ask::plain(name, kind)).expect("an answer");
    assert!(answer.answers.is_empty(), "{answer:?}");
    answer.metadata.response_code
}

#[test]
fn a_name_is_known_on_every_host_and_goes_with_its_container_and_its_host() {
    let lab = Lab::new();
    let hosts = ["h1", "h2", "h3"].map(|name| lab.host(name));
    let [h1, h2, h3] = &hosts;
    h1.launch(&[]);
    let token = h1.token();
    h2.join(&token, &[h1], &[]);
    h3.join(&token, &[h1, h2], &[]);
    let [c1, c2, c3] = [1, 2, 3].map(Container::new);
    h1.attach_with(&c1, &["--name", "web", "--dns"]);
    h2.attach_with(&c2, &["--name", "WEB.wove.local.", "--name", "second"]);
    h3.attach_with(&c3, &["--name", "db.shop", "--dns"]);
    let (web1, web2, db) = (c1.v4.to_string(), c2.v4.to_string(), c3.v4.to_string());

    for container in [&c1, &c3] {
        let netns = &container.netns;
        wait_resolved(netns, "web.wove.local.", A, &[&web1, &web2]);
        wait_resolved(
            netns,
            "wEb.WOVE.local.",
            AAAA,
            &[&c1.v6.to_string(), &c2.v6.to_string()],
        );
        wait_resolved(netns, "db.shop.wove.local.", A, &[&db]);
        wait_resolved(netns, "web.", A, &[&web1, &web2]);
        let reverse = |address: std::net::Ipv4Addr| {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa.")
        };
        wait_resolved(
            netns,
            &reverse(c2.v4),
            PTR,
            &["second.wove.local.", "web.wove.local."],
        );
        assert_eq!(code(netns, "nobody.wove.local.", A), ResponseCode::NXDomain);
        assert_eq!(code(netns, "web.wove.local.", MX), ResponseCode::NoError);
        assert_eq!(code(netns, "shop.wove.local.", A), ResponseCode::NoError);
        let firsts: BTreeSet<String> = (0..6)
            .map(|_| resolve(netns, "web.wove.local.", A).unwrap()[0].clone())
            .collect();
        assert_eq!(firsts.len(), 2, "addresses take turns");
    }
    ping_within(secs(10), &c1.netns, c3.v4);
    let status = h3.ok(&["status", "dns"]);
    ensure(status.contains("second.wove.local"), &status);
    let listed = h1.ok(&["ps"]);
    ensure(listed.contains("web"), &listed);

    h2.detach(&c2);
    wait_resolved(&c3.netns, "web.wove.local.", A, &[&web1]);
    assert_eq!(
        code(&c3.netns, "second.wove.local.", A),
        ResponseCode::NXDomain
    );
    h1.kill();
    eventually(
        secs(20),
        "the name of a dead host is gone",
        || match resolve(&c3.netns, "web.wove.local.", A) {
            Err(error) if error.contains("Non-Existent") => Ok(()),
            other => Err(format!("{other:?}")),
        },
    );
    h1.relaunch();
    wait_resolved(&c3.netns, "web.wove.local.", A, &[&web1]);
    wait_resolved(&c1.netns, "db.shop.wove.local.", A, &[&db]);
}

#[test]
fn names_survive_when_every_daemon_is_killed_at_once() {
    let lab = Lab::new();
    let (a, b) = (lab.host("a"), lab.host("b"));
    a.launch(&[]);
    b.join(&a.token(), &[&a], &[]);
    let (ca, cb) = (Container::new(1), Container::new(2));
    a.attach_with(&ca, &["--name", "one", "--dns"]);
    b.attach_with(&cb, &["--name", "two"]);
    a.ok(&["dns", "add", "outside", "192.0.2.9", "2001:db8::9"]);
    a.ok(&["dns", "add", "outside", "192.0.2.10"]);
    let outside = ["192.0.2.9", "192.0.2.10", "2001:db8::9"];
    b.wait_lookup("outside", &outside);
    a.kill();
    b.kill();
    a.relaunch();
    b.relaunch();
    for host in [&a, &b] {
        host.wait_lookup("outside.wove.local", &outside);
        host.wait_lookup("one", &[&ca.v4.to_string(), &ca.v6.to_string()]);
        host.wait_lookup("two", &[&cb.v4.to_string(), &cb.v6.to_string()]);
        host.wait_lookup(&cb.v4.to_string(), &["two.wove.local"]);
    }
    wait_resolved(&ca.netns, "two.wove.local.", A, &[&cb.v4.to_string()]);

    a.ok(&["dns", "remove", "outside", "192.0.2.9"]);
    b.wait_lookup("outside", &["192.0.2.10", "2001:db8::9"]);
    a.ok(&["dns", "remove", "outside"]);
    b.wait_lookup("outside", &[]);
    for (command, why) in [
        (
            vec!["dns", "remove", "outside"],
            "was not added on this host",
        ),
        (vec!["dns", "remove", "one"], "attached container"),
        (vec!["dns", "lookup", "outside"], "not known in the mesh"),
        (
            vec!["dns", "add", "x.example.", "192.0.2.1"],
            "not in the domain wove.local",
        ),
    ] {
        let output = a.cli(&command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command:?}: {said}");
        ensure(said.contains(why), &said);
    }
    // What is kept on a host that comes back without a container is not.
    a.kill();
    drop(ca);
    a.relaunch();
    b.wait_lookup("one", &[]);
}

/// A process with a network, files and a host name of its own.
struct Process(Child);

impl Process {
    fn new() -> Self {
        let script = "mount -t tmpfs none /etc && printf '127.0.0.1 localhost\\n' > /etc/hosts && \
                      printf 'nameserver 192.0.2.53\\nsearch example.com\\n' > /etc/resolv.conf && \
                      hostname shop.own 2>/dev/null || echo shop.own > /proc/sys/kernel/hostname; \
                      echo ready; exec sleep 1000";
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--uts", "sh", "-c", script]);
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare is there");
        let mut line = String::new();
        let out = child.stdout.take().expect("it is a pipe");
        BufReader::new(out)
            .read_line(&mut line)
            .expect("it says something");
        assert_eq!(line, "ready\n");
        Self(child)
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }

    fn host_name(&self) -> String {
        let name = Command::new("nsenter")
            .args(["--uts", "--target", &self.pid(), "hostname"])
            .output()
            .expect("nsenter is there");
        String::from_utf8_lossy(&name.stdout).trim().to_owned()
    }

    fn read(&self, file: &str) -> String {
        let root = Path::new("/proc").join(self.pid()).join("root");
        fs::read_to_string(root.join("etc").join(file)).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only if it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_process_gets_its_files_and_is_forgotten_with_its_namespace() {
    let lab = Lab::new();
    let (a, b) = (lab.host("a"), lab.host("b"));
    a.launch(&[]);
    b.join(&a.token(), &[&a], &[]);
    let process = Process::new();
    let (resolv, hosts) = (process.read("resolv.conf"), process.read("hosts"));
    let host_name = process.host_name();
    let pid = process.pid();
    let attach = |options: &[&str]| {
        let base = ["attach", "--pid", &pid, "10.77.0.9/24"];
        a.ok(&[&base, options].concat());
    };
    attach(&[]);
    b.wait_lookup("shop.own", &["10.77.0.9"]);
    assert_eq!(process.read("hosts"), hosts, "nothing was asked for");
    for _ in 0..2 {
        attach(&["--dns", "--hostname", "till"]);
    }
    let written = process.read("resolv.conf");
    ensure(
        written.contains(
            "nameserver 127.0.0.83\nnameserver 192.0.2.53\nsearch wove.local example.com\n",
        ),
        &written,
    );
    let written = process.read("hosts");
    ensure(
        written.contains("10.77.0.9\ttill.wove.local till"),
        &written,
    );
    b.wait_lookup("till", &["10.77.0.9"]);
    assert_eq!(process.host_name(), "till");
    let path = format!("/proc/{pid}/ns/net");
    let netns = Netns::of(&path);
    wait_resolved(&netns, "till.wove.local.", A, &["10.77.0.9"]);
    drop(netns);
    a.ok(&["detach", "--pid", &pid]);
    eventually(secs(10), "the files are as they were", || {
        match process.read("resolv.conf") == resolv && process.read("hosts") == hosts {
            true => Ok(()),
            false => Err(process.read("resolv.conf")),
        }
    });
    assert_eq!(process.host_name(), host_name);
    b.wait_lookup("till", &[]);

    // Whose container dies is forgotten, although we had a socket inside.
    attach(&["--dns", "--name", "mortal"]);
    b.wait_lookup("mortal", &["10.77.0.9"]);
    drop(process);
    b.wait_lookup("mortal", &[]);
    eventually(secs(10), "nothing is attached", || {
        match a.ok(&["ps", "-o", "json"]) {
            listed if listed.trim() == "[]" => Ok(()),
            listed => Err(listed),
        }
    });
    let output = a.cli(&["attach", "--pid", &pid, "10.77.0.9/24"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    ensure(said.contains("is the container running?"), &said);
}

#[test]
fn interfaces_of_one_container_are_detached_in_any_order() {
    let lab = Lab::new();
    let host = lab.host("a");
    host.launch(&[]);
    let process = Process::new();
    let pid = process.pid();
    let before = (process.read("resolv.conf"), process.read("hosts"));
    for forwards in [true, false] {
        let mut names = ["one", "two", "three"];
        for (at, name) in names.iter().enumerate() {
            let (ifname, address) = (format!("w{at}"), format!("10.77.{at}.9/24"));
            let place = ["attach", "--pid", &pid, "--ifname", &ifname, &address];
            host.ok(&[&place, &["--dns", "--name", name][..]].concat());
        }
        let hosts = process.read("hosts");
        for name in names {
            ensure(
                hosts.contains(&format!("\t{name}.wove.local {name}")),
                &hosts,
            );
        }
        let mut order = [0, 1, 2];
        if !forwards {
            order.reverse();
            names.reverse();
        }
        for (done, at) in order.iter().enumerate() {
            host.ok(&["detach", "--pid", &pid, "--ifname", &format!("w{at}")]);
            let left = &names[done + 1..];
            eventually(secs(10), "the files tell of those that are left", || {
                let (resolv, hosts) = (process.read("resolv.conf"), process.read("hosts"));
                let told = |name: &&&str| hosts.contains(&format!(" {name}\n"));
                let right = match left {
                    [] => (&resolv, &hosts) == (&before.0, &before.1),
                    _ => {
                        resolv.contains("127.0.0.83")
                            && names.iter().filter(told).count() == left.len()
                            && left.iter().all(|name| told(&name))
                    }
                };
                right.then_some(()).ok_or(hosts + &resolv)
            });
        }
    }
}

#[test]
fn a_long_answer_is_cut_and_complete_over_a_connection() {
    let lab = Lab::new();
    let host = lab.host("a");
    host.launch(&["--dns-domain", "mesh.example"]);
    let container = Container::new(1);
    host.attach_with(&container, &["--dns", "--name", "c"]);
    let addresses: Vec<String> = (1..=60).map(|n| format!("192.0.2.{n}")).collect();
    let mut command = vec!["dns", "add", "many.mesh.example"];
    command.extend(addresses.iter().map(String::as_str));
    host.ok(&command);
    let ask = |payload, stream| {
        let ask = Ask {
            name: "many.mesh.example.",
            kind: A,
            payload,
            stream,
        };
        let answer = eventually(secs(10), "it is answered", || {
            ask_at(&container.netns, INSIDE, ask)
                .filter(|answer| !answer.answers.is_empty())
                .ok_or_else(|| "not yet".to_owned())
        });
        (answer.answers.len(), answer.metadata.truncation)
    };
    let (plain, cut) = ask(0, false);
    assert!(plain < 60 && cut);
    let (more, cut) = ask(700, false);
    assert!(more > plain && more < 60 && cut);
    assert_eq!(ask(1232, false), (60, false));
    assert_eq!(ask(0, true), (60, false));
}

/// Answers every query on a host with this code, or not at all.
fn server(host: &Host, at: &'static str, code: Option<u8>) {
    let socket = host
        .netns
        .run(|| UdpSocket::bind(at))
        .expect("nothing else is there");
    std::thread::spawn(move || {
        let mut buffer = [0; 600];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let Some(code) = code else { continue };
            buffer[2] |= 0x80;
            buffer[3] = buffer[3] & 0xf0 | code;
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
}

#[test]
fn other_names_are_asked_of_other_servers_until_one_can_tell() {
    let lab = Lab::new();
    let host = lab.host("a");
    server(&host, "127.0.1.1:53", None);
    server(&host, "127.0.1.2:53", Some(5));
    server(&host, "127.0.1.3:53", Some(3));
    host.launch(&["--dns-upstream", "127.0.1.1,127.0.1.2,127.0.1.3:53"]);
    let container = Container::new(1);
    host.attach_with(&container, &["--dns", "--name", "c"]);
    wait_resolved(
        &container.netns,
        "c.wove.local.",
        A,
        &[&container.v4.to_string()],
    );
    for (name, kind) in [("example.com.", MX), ("9.2.0.192.in-addr.arpa.", PTR)] {
        let answer = ask_at(&container.netns, INSIDE, Ask::plain(name, kind)).expect("an answer");
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
        assert!(!answer.metadata.authoritative);
    }
    let dns = &host.status().unwrap()["dns"];
    assert_eq!(dns["counters"]["forwarded"], 2, "{dns}");
    assert_eq!(dns["upstream"][2], "127.0.1.3:53");
    // Of names in the domain nobody else hears.
    assert_eq!(
        code(&container.netns, "x.wove.local.", A),
        ResponseCode::NXDomain
    );
    assert_eq!(host.status().unwrap()["dns"]["counters"]["forwarded"], 2);
}

#[test]
fn a_host_is_answered_where_it_wants_and_strangers_are_not() {
    let lab = Lab::new();
    let (host, stranger) = (lab.host("a"), lab.host("stranger"));
    let listen = format!("{}:53", host.v4());
    host.launch(&["--dns-listen", &listen]);
    host.ok(&["dns", "add", "x", "192.0.2.1"]);
    let ask = Ask::plain("x.wove.local.", A);
    let answer = ask_at(&host.netns, &listen, ask).expect("the host itself is answered");
    assert_eq!(data(&answer), ["192.0.2.1"]);
    for stream in [false, true] {
        let ask = Ask { stream, ..ask };
        assert_eq!(
            ask_at(&stranger.netns, &listen, ask),
            None,
            "a stranger is not"
        );
    }
    let refused = &host.status().unwrap()["dns"]["counters"]["refused"];
    assert_eq!(*refused, 2);
    // Nobody answers at other addresses of the host.
    assert_eq!(ask_at(&host.netns, "127.0.0.1:53", ask), None);
}

#[test]
fn without_dns_no_name_is_told_and_none_answered() {
    let lab = Lab::new();
    let (a, b) = (lab.host("a"), lab.host("b"));
    a.launch(&["--no-dns"]);
    b.join(&a.token(), &[&a], &[]);
    let (ca, cb) = (Container::new(1), Container::new(2));
    a.attach_with(&ca, &["--name", "quiet"]);
    b.attach_with(&cb, &["--dns", "--no-name"]);
    b.ok(&["dns", "add", "loud", "192.0.2.1"]);
    wait_resolved(&cb.netns, "loud.wove.local.", A, &["192.0.2.1"]);
    ping_within(secs(10), &ca.netns, cb.v4);
    b.wait_lookup("quiet", &[]);
    b.wait_lookup(&cb.v4.to_string(), &[]);
    for command in [
        vec!["dns", "add", "x", "192.0.2.1"],
        vec!["dns", "lookup", "loud"],
    ] {
        let output = a.cli(&command);
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr);
        ensure(said.contains("switched off"), &said);
    }
    let other = Container::new(3);
    let output = a.cli(&["attach", "--netns", &other.path(), "--dns", "10.77.0.3/24"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(other.netns.link_index("wove0"), None);
    let status = a.ok(&["status"]);
    ensure(status.contains("Names: off"), &status);
}
