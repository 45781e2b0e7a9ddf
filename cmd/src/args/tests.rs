//! The command line, read as operators write it.

use clap::{CommandFactory, error::ErrorKind};

use super::*;

fn parse(line: &str) -> Result<Cli, ErrorKind> {
    Cli::try_parse_from(line.split_whitespace()).map_err(|error| error.kind())
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_of_the_contract_parses() {
    for line in [
        "wove launch",
        "wove launch b [::1]:7 10.0.0.1",
        "wove connect --replace b c:1 -o json",
        "wove forget b",
        "wove status",
        "wove status connections -o json --socket /s",
        "wove --socket /s status peers",
        "wove report",
        "wove attach --netns c1 10.32.1.5/24 fd00::5/64",
        "wove attach --netns /run/netns/c1 --ifname eth7 net:default",
        "wove attach --pid 42",
        "wove attach --container abc net:10.32.1.0/24",
        "wove detach --netns c1",
        "wove expose 10.32.0.1/24",
        "wove hide",
        "wove ps -o text",
        "wove attach --container abc --dns --name web --name a.b --hostname h 10.32.1.5/24",
        "wove attach --netns c1 --no-name 10.32.1.5/24",
        "wove detach --container abc",
        "wove dns add web 10.0.0.1 fd00::1",
        "wove dns remove web",
        "wove dns remove web.wove.local. 10.0.0.1 -o json",
        "wove dns lookup 10.0.0.1",
        "wove rmpeer x",
        "wove prime",
        "wove token",
        "wove token -o json",
        "wove token show -o json",
        "wove token add",
        "wove token add -",
        "wove token prefer t",
        "wove token remove t",
        "wove log-level wove::engine=debug,info",
        "wove stop",
        "wove reset --force --state-dir /s --bridge b",
        "wove version",
        "wove completions zsh",
        "wove demo --keep",
    ] {
        let parsed = parse(line);
        assert!(parsed.is_ok(), "{line}: {parsed:?}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for line in [
        "wove explode",
        "wove dns",
        "wove dns add web",
        "wove dns add web 10.0.0.1/24",
        "wove attach --netns c1 --name a..b 10.32.1.5/24",
        "wove attach --netns c1 --no-name --name a 10.32.1.5/24",
        "wove detach --netns c1 --dns",
        "wove connect",
        "wove status everything",
        "wove status -o yaml",
        "wove attach 10.32.1.5/24",
        "wove attach --netns c1 --pid 4 10.32.1.5/24",
        "wove attach --pid 0 10.32.1.5/24",
        "wove attach --netns .. 10.32.1.5/24",
        "wove attach --netns c1 10.32.1.5",
        "wove attach --netns c1 10.32.1.0/24",
        "wove attach --netns c1 127.0.0.1/8",
        "wove attach --netns c1 224.0.0.1/24",
        "wove attach --netns c1 net:everything",
        "wove attach --netns c1 --ifname a/b 10.32.1.5/24",
        "wove token prefer",
        "wove completions tcsh",
    ] {
        let parsed = parse(line).map(drop);
        assert!(
            matches!(parsed, Err(kind) if kind != ErrorKind::DisplayHelp),
            "{line}: {parsed:?}"
        );
    }
}

#[test]
fn a_namespace_is_a_path_for_the_daemon() {
    assert_eq!(parse_netns("c1"), Ok("/run/netns/c1".into()));
    assert_eq!(parse_netns("/proc/4/ns/net"), Ok("/proc/4/ns/net".into()));
    assert!(parse_netns("./c1").is_ok_and(|path| path.is_absolute()));
    assert!(parse_netns("").is_err());
}

#[test]
fn an_address_is_exact_or_of_a_subnet() {
    let exact = |text: &str| Ok(Address::Exact(text.parse().unwrap()));
    for text in [
        "10.32.1.5/24",
        "10.32.1.0/31",
        "10.32.1.1/32",
        "fd00::5/64",
        "fd00::/64",
    ] {
        assert_eq!(parse_address(text), exact(text), "{text}");
    }
    for (text, why) in [
        ("10.32.1.0/24", "the subnet itself"),
        ("10.32.1.255/24", "broadcast"),
        ("10.32.1.5", "prefix length"),
        ("127.0.0.1/8", "no address of a host"),
        ("net:10.32.1.5", "net:CIDR"),
        ("net:", "net:CIDR"),
    ] {
        let error = parse_address(text).unwrap_err();
        assert!(error.contains(why), "{text}: {error}");
    }
    assert_eq!(
        parse_address("net:default"),
        Ok(Address::FromSubnet("net:default".into()))
    );
}

#[test]
fn help_is_there_for_every_visible_command_and_option() {
    fn check(command: &clap::Command) {
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            assert!(
                arg.get_help().is_some(),
                "{} {:?}",
                command.get_name(),
                arg.get_id()
            );
        }
        for sub in command.get_subcommands() {
            assert!(sub.get_about().is_some(), "{}", sub.get_name());
            check(sub);
        }
    }
    check(&Cli::command());
}
