//! Runs a list of scenarios, and says what came out.

use std::io::{self, Write};

use super::{
    bars,
    datagram::KINDS,
    memory,
    options::{Options, Output},
    progress::Progress,
    report::Report,
    scenario::{Run, Scenario, Start},
    sweep,
    time::{Stopwatch, Time},
    warm,
    world::{Setup, World},
};

/// Hosts for peers that join later.
const NEWCOMERS: u32 = 20;

/// Runs what the options say. Whether all went well; an error is a mistake in
/// the options or with a file.
pub fn run(
    options: &Options,
    out: &mut dyn Write,
    err: &mut (dyn Write + Send),
) -> anyhow::Result<bool> {
    let scenarios = options.scenarios().map_err(anyhow::Error::msg)?;
    if options.sweep {
        return sweep::run(options, out, err);
    }
    let mut world = None;
    let mut well = true;
    for scenario in &scenarios {
        let outcome = one(scenario, options, &mut world);
        print(&outcome.report, options, out)?;
        well &= judge(&outcome, options, err)?;
    }
    Ok(well)
}

/// What came out of a scenario.
pub(crate) struct Outcome {
    pub(crate) report: Report,
    violations: Vec<String>,
    notes: Vec<String>,
}

/// Runs one scenario, in the world there is if it fits.
pub(crate) fn one(scenario: &Scenario, options: &Options, place: &mut Option<World>) -> Outcome {
    let wall = Stopwatch::start();
    if scenario.start != Start::Warm {
        *place = None;
    }
    let mut unrest = None;
    let begun = place.as_ref().map_or(Time::default(), |world| world.now);
    let world = match place {
        Some(world) => world,
        None => {
            let mut world = fresh(scenario, options);
            if scenario.start != Start::Cold {
                unrest = match options.launch || options.engine {
                    true => world.launch_all(options.groups).err(),
                    false => world.warm().err(),
                };
            }
            place.insert(world)
        }
    };
    let (before, had, warm_at) = (sent(world), records(world), world.now);
    let mut run = Run::new(scenario, world, options.duration());
    if let Some(unrest) = unrest {
        let limit = warm::PATIENCE.as_secs();
        run.violated(format!(
            "the mesh does not settle within {limit} s: {unrest}"
        ));
    }
    run.world.progress.phase(scenario.name);
    (scenario.run)(&mut run);
    run.check();
    let Run {
        figures,
        violations,
        mut notes,
        ..
    } = run;
    if options.kinds {
        let peer_seconds = f64::from(options.peers) * world.now.since(warm_at).as_secs_f64();
        let sent = KINDS.iter().zip(sent(world).into_iter().zip(before));
        let sent = sent.filter(|(_, (now, before))| now > before);
        notes.extend(sent.map(|(kind, (now, before))| {
            let rate = (now - before) as f64 / peer_seconds;
            format!("{rate:9.1} bytes per peer and second of {kind}")
        }));
        let has = records(world);
        let [new, copies] =
            std::array::from_fn(|i| has[i].saturating_sub(had[i]) as f64 / peer_seconds);
        notes.push(format!(
            "{new:9.1} records per peer and second were new, {copies:.1} were not"
        ));
    }
    let report = Report {
        scenario: scenario.name.to_owned(),
        peers: options.peers,
        seed: options.seed,
        trace_hash: format!("{:016x}", world.trace_hash()),
        violations: violations.len(),
        virtual_s: world.now.since(begun).as_secs_f64(),
        wall_s: wall.seconds(),
        peak_rss_mib: memory::peak_rss_mib(),
        figures,
    };
    if scenario.spoils || scenario.start != Start::Warm {
        *place = None;
    }
    Outcome {
        report,
        violations,
        notes,
    }
}

/// Bytes sent by all hosts, by kind of datagram.
fn sent(world: &World) -> [u64; KINDS.len()] {
    let mut sum = [0; KINDS.len()];
    for traffic in world.traffic() {
        sum.iter_mut()
            .zip(traffic.kinds)
            .for_each(|(sum, bytes)| *sum += bytes);
    }
    sum
}

/// Records that were new to those who got them, and those that were not.
/// Of peers that were launched anew, only since then.
fn records(world: &World) -> [u64; 2] {
    let meshes = world.numbers().filter_map(|number| world.view(number));
    meshes.fold([0; 2], |[new, copies], mesh| {
        let counters = mesh.counters();
        [new + counters.accepted, copies + counters.stale]
    })
}

fn fresh(scenario: &Scenario, options: &Options) -> World {
    let setup = Setup {
        peers: options.peers,
        newcomers: NEWCOMERS,
        seed: options.seed,
        threads: usize::from(options.threads),
        loss: options.loss,
        one_way: options.one_way,
        nat: options.nat,
        reach: options.reach(),
        engine: options.engine,
    };
    let progress = Progress::new(options.shows_progress());
    World::new(scenario.setup(setup), progress)
}

fn print(report: &Report, options: &Options, out: &mut dyn Write) -> io::Result<()> {
    match options.output {
        Output::Text => write!(out, "{}", report.text())?,
        Output::Json => writeln!(out, "{}", report.json())?,
    }
    out.flush()?;
    if let Some(path) = &options.out {
        sweep::append(path, &format!("{}\n", report.json()))?;
    }
    Ok(())
}

/// Whether nothing is wrong; says what is, and how to see it again.
fn judge(outcome: &Outcome, options: &Options, err: &mut dyn Write) -> io::Result<bool> {
    let Outcome {
        report,
        violations,
        notes,
    } = outcome;
    let missed = if options.check {
        bars::missed(report)
    } else {
        Vec::new()
    };
    for note in notes {
        writeln!(err, "{}: {note}", report.scenario)?;
    }
    for violation in violations.iter().take(20) {
        writeln!(err, "{}: violated: {violation}", report.scenario)?;
    }
    for missed in &missed {
        writeln!(err, "{}: missed: {missed}", report.scenario)?;
    }
    let well = violations.is_empty() && missed.is_empty();
    if !well {
        let seed = options.seed;
        writeln!(
            err,
            "{}: seed {seed}, {} peers, {:.2} s of virtual time; replay with\n  {}",
            report.scenario,
            report.peers,
            report.virtual_s,
            options.replay(&options.scenario.join(","), seed)
        )?;
    }
    Ok(well)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn traces(threads: &str, seed: &str, scenario: &str) -> Vec<String> {
        traces_with(&["--peers=20"], threads, seed, scenario)
    }

    fn traces_with(more: &[&str], threads: &str, seed: &str, scenario: &str) -> Vec<String> {
        let common = ["sim", "--duration=3", "--scenario", scenario];
        let these = ["--threads", threads, "--seed", seed];
        let all = common.iter().chain(&these).chain(more);
        let options = Options::parse_from(all);
        let mut world = None;
        let scenarios = options.scenarios().unwrap();
        let reports = scenarios
            .iter()
            .map(|scenario| one(scenario, &options, &mut world));
        reports
            .map(|outcome| {
                assert!(outcome.violations.is_empty(), "{:?}", outcome.violations);
                outcome.report.trace_hash
            })
            .collect()
    }

    #[test]
    fn a_run_depends_on_its_seed_and_not_on_the_number_of_threads() {
        let one = traces("1", "5", "idle,massboot");
        assert_eq!(one, traces("2", "5", "idle,massboot"));
        let idle = traces("1", "6", "idle");
        assert_eq!(idle, traces("1", "6", "idle"));
        assert_ne!(idle[0], one[0]);
    }

    #[test]
    fn so_does_a_run_of_whole_engines() {
        let engines = |threads, seed| {
            let few = ["--engine", "--peers=6"];
            traces_with(&few, threads, seed, "massboot")
        };
        let one = engines("1", "5");
        assert_eq!(one, engines("2", "5"));
        assert_ne!(one, engines("1", "6"));
    }

    #[test]
    fn what_engines_cannot_do_is_refused() {
        let refused = |arguments: [&str; 3]| {
            let options = Options::parse_from(["sim", "--engine"].iter().chain(&arguments));
            options.scenarios().map(|found| found.len()).unwrap_err()
        };
        assert!(refused(["--scenario=idle", "--peers", "201"]).contains("at most 200 peers"));
        assert!(refused(["--scenario", "idle,liar", "--nat=0"]).contains("'liar'"));
    }
}
