//! Many seeds: every scenario with every seed, each in a process of its own, so
//! that one that panics or grows too large ends nothing but itself.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    fs,
    io::{self, Write},
    path::Path,
    process::{Command, Stdio},
    sync::Mutex,
};

use anyhow::Context;
use serde_json::Value;

use super::{options::Options, report::number, stats::percentile};

/// One run to be done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Job {
    scenario: String,
    peers: u32,
    seed: u64,
}

/// What came out of one.
struct Done {
    job: Job,
    passed: bool,
    figures: BTreeMap<String, f64>,
}

/// Runs all jobs and prints a table. Whether all passed.
pub(super) fn run(
    options: &Options,
    out: &mut dyn Write,
    err: &mut (dyn Write + Send),
) -> anyhow::Result<bool> {
    let known = match &options.failures {
        Some(path) => read_failures(path)?,
        None => Vec::new(),
    };
    let jobs = jobs(options, &known)?;
    let program = std::env::current_exe().context("the path of this program is not known")?;
    let state = Mutex::new(State {
        waiting: jobs.into(),
        done: Vec::new(),
        failing: known,
        err,
    });
    let lock = || state.lock().expect("no worker panicked");
    // Not in the head of the loop, where the lock would be held all through its body.
    let next = || lock().waiting.pop_front();
    let work = || -> anyhow::Result<()> {
        while let Some(job) = next() {
            let done = perform(&program, job, options)?;
            lock().take(done, options)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..options.jobs).map(|_| scope.spawn(work)).collect();
        let joined = workers
            .into_iter()
            .map(|worker| worker.join().expect("a worker panicked"));
        joined.collect::<anyhow::Result<Vec<()>>>()
    })?;
    let done = state.into_inner().expect("no worker panicked").done;
    write!(out, "{}", table(&done))?;
    Ok(done.iter().all(|done| done.passed))
}

/// What workers share.
struct State<'a> {
    waiting: VecDeque<Job>,
    done: Vec<Done>,
    /// What failed, now or in an earlier sweep, and has not passed since.
    failing: Vec<Job>,
    err: &'a mut (dyn Write + Send),
}

impl State<'_> {
    fn take(&mut self, done: Done, options: &Options) -> anyhow::Result<()> {
        self.failing.retain(|job| *job != done.job);
        if !done.passed {
            self.failing.push(done.job.clone());
            let Job { scenario, seed, .. } = &done.job;
            writeln!(
                self.err,
                "{scenario} failed with seed {seed}; replay with\n  {}",
                replay(&done.job, options)
            )?;
        }
        if let Some(path) = &options.failures {
            write_failures(path, &self.failing, options)?;
        }
        self.done.push(done);
        if options.shows_progress() {
            let failed = self.done.iter().filter(|done| !done.passed).count();
            let (ended, waiting) = (self.done.len(), self.waiting.len());
            writeln!(self.err, "{ended} ended, {failed} failed, {waiting} wait")?;
        }
        Ok(())
    }
}

/// What failed before comes first.
fn jobs(options: &Options, known: &[Job]) -> anyhow::Result<Vec<Job>> {
    let scenarios = options.scenarios().map_err(anyhow::Error::msg)?;
    let mut jobs = known.to_vec();
    for seed in options.seeds.first..=options.seeds.last {
        for scenario in &scenarios {
            let job = Job {
                scenario: scenario.name.to_owned(),
                peers: options.peers,
                seed,
            };
            if !known.contains(&job) {
                jobs.push(job);
            }
        }
    }
    Ok(jobs)
}

fn options_of(job: &Job, options: &Options) -> Options {
    Options {
        peers: job.peers,
        ..options.clone()
    }
}

fn replay(job: &Job, options: &Options) -> String {
    options_of(job, options).replay(&job.scenario, job.seed)
}

fn perform(program: &Path, job: Job, options: &Options) -> anyhow::Result<Done> {
    let threads = (options.threads / options.jobs).max(1).to_string();
    let output = Command::new(program)
        .args(options_of(&job, options).arguments(&job.scenario, job.seed))
        .args(["--output", "json", "--threads", &threads])
        .stderr(Stdio::null())
        .output()
        .context("cannot run this program again")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if let Some(path) = &options.out {
        append(path, &text)?;
    }
    let report: Value = serde_json::from_str(text.trim()).unwrap_or_default();
    let figures = report["figures"].as_object().into_iter().flatten();
    let figures = figures.filter_map(|(name, value)| Some((name.clone(), value.as_f64()?)));
    Ok(Done {
        figures: figures.collect(),
        passed: output.status.success(),
        job,
    })
}

/// Adds text to the end of a file.
pub(super) fn append(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)?;
    file.write_all(text.as_bytes())
}

fn read_failures(path: &Path) -> anyhow::Result<Vec<Job>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().filter_map(parse).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Reads `SCENARIO PEERS SEED # command`.
fn parse(line: &str) -> Option<Job> {
    let mut words = line.split_whitespace();
    Some(Job {
        scenario: words.next()?.to_owned(),
        peers: words.next()?.parse().ok()?,
        seed: words.next()?.parse().ok()?,
    })
}

fn write_failures(path: &Path, failing: &[Job], options: &Options) -> anyhow::Result<()> {
    let mut text = String::new();
    for job in failing {
        let Job {
            scenario,
            peers,
            seed,
        } = job;
        let _ = writeln!(text, "{scenario} {peers} {seed} # {}", replay(job, options));
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// For each scenario: how many passed, and how each figure is distributed.
fn table(done: &[Done]) -> String {
    let mut scenarios: BTreeMap<&str, Vec<&Done>> = BTreeMap::new();
    for done in done {
        scenarios.entry(&done.job.scenario).or_default().push(done);
    }
    let mut text = String::new();
    for (scenario, runs) in scenarios {
        let passed = runs.iter().filter(|run| run.passed).count();
        let _ = writeln!(
            text,
            "{scenario}: {} seeds run, {passed} passed",
            runs.len()
        );
        let _ = writeln!(
            text,
            "  {:<28} {:>14} {:>14} {:>14} {:>14}",
            "", "least", "median", "p99", "most"
        );
        let mut figures: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (name, value) in runs.iter().flat_map(|run| &run.figures) {
            figures.entry(name).or_default().push(*value);
        }
        for (name, mut values) in figures {
            values.sort_unstable_by(f64::total_cmp);
            let _ = write!(text, "  {name:<28}");
            for share in [0.0, 0.5, 0.99, 1.0] {
                let _ = write!(text, " {:>14}", number(percentile(&values, share)));
            }
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_survive_their_file() {
        let job = Job {
            scenario: "idle".to_owned(),
            peers: 7,
            seed: 9,
        };
        assert_eq!(parse("idle 7 9 # cargo run"), Some(job));
        assert_eq!(parse("idle 7"), None);
    }

    #[test]
    fn the_table_shows_how_figures_are_distributed() {
        let done = |seed, value| Done {
            job: Job {
                scenario: "idle".to_owned(),
                peers: 7,
                seed,
            },
            passed: seed != 2,
            figures: BTreeMap::from([("links".to_owned(), value)]),
        };
        let text = table(&[done(1, 5.0), done(2, 7.0), done(3, 6.0)]);
        assert!(text.starts_with("idle: 3 seeds run, 2 passed\n"), "{text}");
        let words: Vec<&str> = text.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(words, ["links", "5", "6", "7", "7"]);
    }
}
