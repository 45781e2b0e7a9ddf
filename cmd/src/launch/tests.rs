//! Options to configuration, one by one.

use clap::{CommandFactory, Parser};

use super::*;
use crate::args::{Cli, Command};

fn launch(arguments: &[&str]) -> Result<Config, Failure> {
    let cli = Cli::try_parse_from(["wove", "launch"].iter().chain(arguments)).unwrap();
    match cli.command {
        Command::Launch(options) => options.config(cli.socket),
        other => panic!("{other:?}"),
    }
}

#[test]
fn no_options_make_the_default_configuration() {
    let config = launch(&[]).unwrap();
    assert_eq!(config, Config::default());
    assert!(config.encrypt && config.fastdp && config.discovery);
}

#[test]
fn every_option_arrives() {
    let config = launch(&[
        "--state-dir=/s",
        "--socket=/r/w.sock",
        "--port=7000",
        "--host=10.0.0.1",
        "--nickname=n",
        "--token=a",
        "--token=b",
        "--password=p,q",
        "--no-encryption",
        "--rekey-after=30s",
        "--trusted-subnets=10.0.0.0/8,fd00::/8",
        "--bridge=br0",
        "--mtu=1400",
        "--no-fastdp",
        "--no-discovery",
        "--conn-limit=9",
        "--http-addr=127.0.0.1:6785",
        "--log-level=debug",
        "--log-format=json",
        "--no-dns",
        "--ipalloc-range=10.0.0.0/16",
        "--ipalloc-range6=fd00:1::/64",
        "--ipalloc-init=consensus=3",
        "--ipalloc-dead-after=30m",
        "B:1",
        "2001:db8::1",
    ]);
    let expected = Config {
        state_dir: "/s".into(),
        socket: "/r/w.sock".into(),
        port: 7000,
        host: Some([10, 0, 0, 1].into()),
        nickname: Some("n".into()),
        secrets: Secrets {
            tokens: vec!["a".into(), "b".into()],
            passwords: vec!["p,q".into()],
        },
        encrypt: false,
        rekey_after: Duration::from_secs(30),
        trusted_subnets: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
        bridge: "br0".into(),
        mtu: Some(1400),
        ipalloc_range: Some("10.0.0.0/16".parse().unwrap()),
        ipalloc_range6: Some("fd00:1::/64".parse().unwrap()),
        ipalloc_init: IpallocInit::Consensus(Some(3)),
        ipalloc_dead_after: Duration::from_secs(1800),
        fastdp: false,
        discovery: false,
        conn_limit: Some(9),
        resume: false,
        peers: vec!["b:1".into(), "[2001:db8::1]:6783".into()],
        dns: None,
        http_addr: Some(([127, 0, 0, 1], 6785).into()),
        log_filter: "debug".into(),
        log_format: LogFormat::Json,
    };
    assert_eq!(config.unwrap(), expected);
}

#[test]
fn every_option_has_its_variable() {
    let command = Cli::command();
    let launch = command.find_subcommand("launch").unwrap();
    for option in launch
        .get_arguments()
        .filter_map(|arg| Some((arg.get_long()?, arg)))
    {
        let (long, arg) = option;
        let expected = format!("WOVE_{}", long.to_uppercase().replace('-', "_"));
        if long != "help" {
            assert_eq!(
                arg.get_env().and_then(|name| name.to_str()),
                Some(expected.as_str()),
                "--{long}"
            );
        }
    }
}

#[test]
fn secrets_are_not_in_the_help() {
    for arg in Cli::command()
        .find_subcommand("launch")
        .unwrap()
        .get_arguments()
    {
        let secret = matches!(arg.get_long(), Some("token" | "password"));
        assert_eq!(arg.is_hide_env_values_set(), secret, "{:?}", arg.get_id());
    }
}

#[test]
fn values_out_of_range_are_usage() {
    for bad in [
        "--port=0",
        "--port=65536",
        "--host=name",
        "--mtu=575",
        "--mtu=65522",
        "--bridge=a/b",
        "--nickname=",
        "--conn-limit=-1",
        "--http-addr=6785",
        "--log-level=loud",
        "--log-format=xml",
        "--trusted-subnets=10/8",
        "--rekey-after=0s",
        "--rekey-after=121s",
        "--rekey-after=18446744073709551615d",
        "--ipalloc-dead-after=9s",
    ] {
        assert!(
            Cli::try_parse_from(["wove", "launch", bad]).is_err(),
            "{bad}"
        );
    }
}

#[test]
fn files_of_secrets_have_one_a_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let tokens = file("tokens", b"second\r\n\nthird\nfirst\n");
    let secrets = launch(&["--token=first", "--token-file", &tokens])
        .unwrap()
        .secrets;
    assert_eq!(secrets.tokens, ["first", "second", "third"]);
    let spaces = file("passwords", b" with spaces \n");
    assert_eq!(
        launch(&["--password-file", &spaces])
            .unwrap()
            .secrets
            .passwords,
        [" with spaces "]
    );
    for bad in [
        file("empty", b"\n\n"),
        file("binary", b"\xff\xfe"),
        file("large", &[b'x'; 70_000]),
        file("long", &[b'x'; 2000]),
        directory.path().join("absent").to_str().unwrap().to_owned(),
    ] {
        let refused = launch(&["--token-file", &bad]);
        assert!(
            matches!(refused, Err(Failure::Failed(_))),
            "{bad}: {refused:?}"
        );
    }
    assert!(launch(&["--password="]).is_err());
}

#[test]
fn what_is_refused_says_why() {
    let line = |arguments: &[&str]| launch(arguments).unwrap_err().line().unwrap_or_default();
    assert!(line(&["--resume", "b"]).contains("takes no PEER"));
    assert!(matches!(launch(&["--resume", "b"]), Err(Failure::Usage(_))));
    assert!(matches!(launch(&["a b"]), Err(Failure::Usage(_))));
    assert!(launch(&["--resume"]).unwrap().resume);
}

#[test]
fn names_are_set_up_as_told() {
    let dns = |arguments: &[&str]| launch(arguments).unwrap().dns;
    assert_eq!(dns(&[]), Some(DnsConfig::default()));
    let config = dns(&[
        "--dns-domain=Mesh.Example.",
        "--dns-listen=10.0.0.1",
        "--dns-upstream=192.0.2.1,[2001:db8::1]:5353",
    ])
    .unwrap();
    assert_eq!(config.domain, "mesh.example");
    assert_eq!(config.listen, Some(([10, 0, 0, 1], 53).into()));
    assert_eq!(config.upstream[1], "[2001:db8::1]:5353".parse().unwrap());
    let refused = [
        "--dns-domain=",
        "--dns-domain=a..b",
        "--dns-listen=0.0.0.0",
        "--dns-listen=name",
        "--dns-upstream=192.0.2.1:0",
    ];
    for bad in refused {
        assert!(
            Cli::try_parse_from(["wove", "launch", bad]).is_err(),
            "{bad}"
        );
    }
}

#[test]
fn the_capability_is_read_from_the_mask() {
    assert!(may_administer("Name:\tx\nCapEff:\t000001ffffffffff\n"));
    assert!(may_administer("CapEff:\t0000000000001000\n"));
    for denied in [
        "CapEff:\t0000000000000000\n",
        "CapEff:\t0000000000000800\n",
        "CapEff:\tzz\n",
        "",
    ] {
        assert!(!may_administer(denied), "{denied:?}");
    }
}
