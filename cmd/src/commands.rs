//! What each command does: it asks the daemon, or becomes it, and prints.

use std::{
    io::{self, BufRead, IsTerminal, Read, Write},
    path::PathBuf,
};

use clap::CommandFactory;
use ipnet::IpNet;
use serde_json::json;
use wove::{
    engine::{Attachment, Command as Ask, DnsCommand, Naming, Reply, TokenCommand},
    shell::{self, demo::DemoOptions, view},
};

use crate::{
    args::{
        Address, AddressArgs, AttachArgs, Cli, ClientCommand, Command, DetachArgs, DnsAction,
        Output, PlaceArgs, ResetArgs, Shell, TokenAction,
    },
    client::{Client, ClientError},
    failure::Failure,
    launch::{check_privilege, peer_address},
    render::{self, Printed},
    runtime,
};

/// The longest line read from standard input, in bytes.
const MAX_LINE: u64 = 1024;

/// Does what the command line says.
pub fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Launch(options) => {
            let config = options.config(cli.socket)?;
            check_privilege("launch")?;
            Ok(shell::daemon::run(config)?)
        }
        Command::Demo { keep } => {
            check_privilege("demo")?;
            Ok(shell::demo::run(DemoOptions { keep })?)
        }
        Command::Completions { shell } => print(&completions(shell)),
        Command::Client(command) => client(cli.socket, command),
    }
}

fn client(socket: PathBuf, command: ClientCommand) -> Result<(), Failure> {
    use ClientCommand as C;
    let client = Client::new(socket)?;
    match command {
        C::Connect {
            replace,
            peers,
            output,
        } => {
            let peers = peer_addresses(&peers)?;
            answer(&client, &Ask::Connect { peers, replace }, output.output)
        }
        C::Forget { peers, output } => {
            let peers = peer_addresses(&peers)?;
            answer(&client, &Ask::Forget { peers }, output.output)
        }
        C::Status { page, output } => {
            let reply = client.ask(&Ask::Status)?;
            print(&render::reply(&reply, output.output, page.map(Into::into))?)
        }
        C::Report { output } => answer(&client, &Ask::Report, output.output),
        C::Attach(place) => attach(&client, place),
        C::Detach(place) => detach(&client, place),
        C::Expose(given) => expose(&client, &given),
        C::Hide(given) => {
            let (addresses, subnets) = split(&given.addresses);
            let ask = Ask::Hide { addresses, subnets };
            answer(&client, &ask, given.output.output)
        }
        C::Ps { output } => answer(&client, &Ask::Ps, output.output),
        C::Token { action, output } => {
            token(&client, action.unwrap_or(TokenAction::Show), output.output)
        }
        C::LogLevel { filter, output } => answer(&client, &Ask::LogLevel { filter }, output.output),
        C::Stop { output } => {
            let reply = client.ask_the_last(&Ask::Stop)?;
            print(&render::reply(&reply, output.output, None)?)
        }
        C::Reset(options) => reset(&client, &options),
        C::Version { output } => version(&client, output.output),
        C::Dns { action, output } => answer(&client, &Ask::Dns(dns(action)), output.output),
        C::Rmpeer {
            peers,
            force,
            output,
        } => answer(&client, &Ask::Rmpeer { peers, force }, output.output),
        C::Prime { output } => answer(&client, &Ask::Prime, output.output),
    }
}

fn answer(client: &Client, command: &Ask, output: Output) -> Result<(), Failure> {
    print(&render::reply(&client.ask(command)?, output, None)?)
}

fn attach(client: &Client, options: AttachArgs) -> Result<(), Failure> {
    let mut naming = Naming {
        names: options.naming.names,
        called: Vec::new(),
        nameless: options.naming.no_name,
        hostname: options.naming.hostname,
        dns: options.naming.dns,
        container: None,
    };
    let netns = match &options.inside.place.container {
        Some(container) => {
            let found = runtime::find(container)?;
            naming.called = found.names;
            naming.container = Some(found.id);
            process_namespace(found.pid)
        }
        None => namespace(&options.inside.place)?,
    };
    let (addresses, subnets) = split_or_default(&options.inside.addresses);
    answer(
        client,
        &Ask::Attach {
            netns,
            ifname: options.inside.ifname,
            addresses,
            subnets,
            naming,
        },
        options.output.output,
    )
}

fn detach(client: &Client, options: DetachArgs) -> Result<(), Failure> {
    let netns = match &options.inside.place.container {
        Some(container) => container_namespace(client, container)?,
        None => namespace(&options.inside.place)?,
    };
    let (addresses, subnets) = split(&options.inside.addresses);
    answer(
        client,
        &Ask::Detach {
            netns,
            ifname: options.inside.ifname,
            addresses,
            subnets,
        },
        options.output.output,
    )
}

fn expose(client: &Client, given: &AddressArgs) -> Result<(), Failure> {
    let (addresses, subnets) = split_or_default(&given.addresses);
    let ask = Ask::Expose { addresses, subnets };
    answer(client, &ask, given.output.output)
}

fn token(client: &Client, action: TokenAction, output: Output) -> Result<(), Failure> {
    let command = match action {
        TokenAction::Show => TokenCommand::Show,
        TokenAction::Add { token } => TokenCommand::Add {
            token: token.map(given_or_read).transpose()?,
        },
        TokenAction::Prefer { token } => TokenCommand::Prefer {
            token: given_or_read(token)?,
        },
        TokenAction::Remove { token } => TokenCommand::Remove {
            token: given_or_read(token)?,
        },
    };
    let reply = client.ask(&Ask::Token(command))?;
    let mut printed = render::reply(&reply, output, None)?;
    // For a person the token alone says little; a script wants nothing else.
    if let (Reply::Token { join, .. }, Output::Text, true) =
        (&reply, output, io::stdout().is_terminal())
    {
        printed
            .notes
            .push(format!("join from another host with: {join}"));
    }
    print(&printed)
}

fn reset(client: &Client, options: &ResetArgs) -> Result<(), Failure> {
    match client.ask_the_last(&Ask::Reset) {
        Ok(reply) => print(&render::reply(&reply, options.output.output, None)?),
        Err(ClientError::NoDaemon(_)) if options.force => {
            check_privilege("reset --force")?;
            shell::reset_host(&options.state_dir, &options.bridge)?;
            print(&render::reply(&Reply::Done, options.output.output, None)?)
        }
        Err(ClientError::NoDaemon(socket)) => Err(Failure::Failed(format!(
            "no wove daemon answers on {}: name its socket with --socket, or clean this host without it by `wove reset --force`",
            socket.display()
        ))),
        Err(error) => Err(error.into()),
    }
}

/// Never fails for want of a daemon: it is asked in bug reports.
fn version(client: &Client, output: Output) -> Result<(), Failure> {
    let own = env!("CARGO_PKG_VERSION");
    let daemon = match client.ask(&Ask::Status) {
        Ok(Reply::Status(status)) => Some(status.version),
        _ => None,
    };
    print(&match output {
        Output::Json => Printed::json(&json!({ "version": own, "daemon": daemon })),
        Output::Text => {
            let running = daemon.map(|version| format!("daemon {}\n", view::printable(&version)));
            Printed {
                out: format!("wove {own}\n{}", running.unwrap_or_default()),
                notes: Vec::new(),
            }
        }
    })
}

fn completions(shell: Shell) -> Printed {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "wove", &mut script);
    Printed {
        out: String::from_utf8_lossy(&script).into_owned(),
        notes: Vec::new(),
    }
}

fn peer_addresses(peers: &[String]) -> Result<Vec<String>, Failure> {
    peers.iter().map(|peer| peer_address(peer)).collect()
}

/// A path that the daemon can open.
fn namespace(place: &PlaceArgs) -> Result<PathBuf, Failure> {
    match (&place.netns, place.pid) {
        (Some(netns), _) => Ok(netns.clone()),
        (None, Some(pid)) => Ok(process_namespace(pid)),
        (None, None) => Err(Failure::Usage("name a namespace".into())),
    }
}

fn process_namespace(pid: u32) -> PathBuf {
    format!("/proc/{pid}/ns/net").into()
}

/// What is attached is known by the container's id, also when the container is gone.
fn container_namespace(client: &Client, container: &str) -> Result<PathBuf, Failure> {
    let found = runtime::find(container);
    let id = found.as_ref().map_or(container, |found| &found.id);
    let Reply::Attachments { attachments } = client.ask(&Ask::Ps)? else {
        return Err(Failure::failed("the daemon does not say what is attached"));
    };
    let is_it = |a: &&Attachment| {
        let known = a.naming.container.as_deref();
        known.is_some_and(|known| known == id || (id.len() >= 12 && known.starts_with(id)))
    };
    match (attachments.iter().find(is_it), found) {
        (Some(attachment), _) => Ok(attachment.netns.clone().into()),
        (None, Ok(found)) => Ok(process_namespace(found.pid)),
        (None, Err(error)) => Err(error),
    }
}

fn dns(action: DnsAction) -> DnsCommand {
    match action {
        DnsAction::Add { name, addresses } => DnsCommand::Add { name, addresses },
        DnsAction::Remove { name, addresses } => DnsCommand::Remove { name, addresses },
        DnsAction::Lookup { name } => DnsCommand::Lookup { name },
    }
}

/// Addresses that were given, and subnets to take one of.
fn split(given: &[Address]) -> (Vec<IpNet>, Vec<String>) {
    let (mut addresses, mut subnets) = (Vec::new(), Vec::new());
    for address in given {
        match address {
            Address::Exact(address) => addresses.push(*address),
            Address::FromSubnet(subnet) => subnets.push(subnet.clone()),
        }
    }
    (addresses, subnets)
}

/// The same; where nothing was given, one address of the whole range is wanted.
fn split_or_default(given: &[Address]) -> (Vec<IpNet>, Vec<String>) {
    let (addresses, mut subnets) = split(given);
    if given.is_empty() {
        subnets.push("net:default".into());
    }
    (addresses, subnets)
}

/// `-` stands for the first line of standard input, which no list of processes shows.
fn given_or_read(token: String) -> Result<String, Failure> {
    if token != "-" {
        return Ok(token);
    }
    let mut line = String::new();
    let read = io::stdin().lock().take(MAX_LINE).read_line(&mut line);
    let token = line.trim();
    match read {
        Ok(_) if !token.is_empty() => Ok(token.to_owned()),
        Ok(_) => Err(Failure::failed(
            "standard input has no token in its first line: give one",
        )),
        Err(error) => Err(Failure::failed(format!(
            "standard input cannot be read: {error}; give the token as text"
        ))),
    }
}

fn print(printed: &Printed) -> Result<(), Failure> {
    let mut stderr = io::stderr().lock();
    for note in &printed.notes {
        // Whoever closed standard error does not want to read it.
        let _ = writeln!(stderr, "wove: {}", view::printable(note));
    }
    let mut stdout = io::stdout().lock();
    stdout.write_all(printed.out.as_bytes())?;
    stdout.flush()?;
    Ok(())
}
