//! Conventions checked by a test: who may know whom, what a file starts with,
//! how long it may be, and what must not be left lying about.
//!
//! Cargo already refuses most wrong arrows between packages; here are those
//! that a `use` inside a package, or one line in a manifest, could draw.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A file with more lines is refused; 600 is where one should be split.
const LONGEST: usize = 800;
/// The same for code that is not a test.
const LONGEST_CODE: usize = 600;

/// A `.rs` file of the repository.
struct Source {
    /// Relative to the root, with `/`.
    path: String,
    text: String,
}

#[test]
fn packages_know_only_whom_they_may() {
    let ours = [
        "wove",
        "wove-proto",
        "wove-crypto",
        "wove-gossip",
        "wove-cmd",
        "wove-bench",
    ];
    let allowed: [(&str, &[&str]); 4] = [
        ("proto", &[]),
        ("crypto", &["wove-proto"]),
        ("gossip", &["wove-proto"]),
        ("cmd", &["wove", "wove-proto"]),
    ];
    let mut wrong = Vec::new();
    for (package, may) in allowed {
        let manifest = read(&root().join(package).join("Cargo.toml"));
        for dependency in our_dependencies(&manifest, &ours) {
            if !may.contains(&dependency.as_str()) {
                wrong.push(format!("{package}/Cargo.toml depends on {dependency}"));
            }
        }
    }
    refuse(&wrong);
}

#[test]
fn sources_name_only_whom_they_may() {
    let rules: [(&str, &[&str]); 4] = [
        (
            "proto/src/",
            &[
                "crypto::",
                "gossip::",
                "wove::",
                "wove_crypto",
                "wove_gossip",
            ],
        ),
        ("crypto/src/", &["gossip::", "wove::", "wove_gossip"]),
        ("gossip/src/", &["crypto::", "wove::", "wove_crypto"]),
        ("src/engine/", &["shell"]),
    ];
    let mut wrong = Vec::new();
    for (place, names) in rules {
        for source in sources()
            .iter()
            .filter(|source| source.path.starts_with(place))
        {
            wrong.extend(mentions(source, names));
        }
    }
    refuse(&wrong);
}

#[test]
fn cores_do_no_io_and_read_no_clock() {
    let io = [
        "tokio",
        "UdpSocket",
        "TcpStream",
        "TcpListener",
        "UnixStream",
        "std::thread",
        "std::fs",
        "std::process",
        "SystemTime",
        "Instant::now",
        "rand::rng(",
        "OsRng",
        "async fn",
    ];
    let cores = ["proto/src/", "crypto/src/", "gossip/src/", "src/engine/"];
    let mut wrong = Vec::new();
    for source in sources() {
        if !cores.iter().any(|core| source.path.starts_with(core)) || is_test(&source.path) {
            continue;
        }
        let code = Source {
            text: without_tests(&source.text).to_owned(),
            ..source
        };
        wrong.extend(mentions(&code, &io));
    }
    refuse(&wrong);
}

#[test]
fn every_file_says_what_it_is() {
    let silent = sources()
        .into_iter()
        .filter(|source| !source.text.starts_with("//!"));
    refuse(
        &silent
            .map(|source| format!("{} has no //! header", source.path))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn no_file_is_too_long() {
    let mut wrong = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        let code = without_tests(&source.text).lines().count();
        if lines > LONGEST || (code > LONGEST_CODE && !is_test(&source.path)) {
            wrong.push(format!(
                "{}: {lines} lines, {code} without its tests",
                source.path
            ));
        }
    }
    refuse(&wrong);
}

#[test]
fn nothing_unfinished_is_left() {
    // In two parts, so that this file does not find itself.
    let unfinished = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("#[", "ignore"),
        concat!("dbg", "!("),
    ];
    refuse(
        &sources()
            .iter()
            .flat_map(|source| occurrences(source, &unfinished))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn no_path_of_a_build_machine_is_named() {
    let places = [concat!("/ro", "ot/"), concat!("/ho", "me/")];
    let mut texts = sources();
    texts.extend(files(&["toml", "md", "sh", "yml", "service", "c", "h"]));
    refuse(
        &texts
            .iter()
            .flat_map(|source| occurrences(source, &places))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn unsafe_code_is_kept_in_few_places() {
    // What asks the kernel, and what counts memory for the simulator.
    let places = ["src/shell/sys", "bench/src/sim/memory.rs"];
    let mut wrong = Vec::new();
    for source in sources() {
        if places.iter().any(|place| source.path.starts_with(place)) || is_test(&source.path) {
            continue;
        }
        let found = source
            .text
            .lines()
            .enumerate()
            .filter(|(_, line)| has_unsafe(line));
        wrong.extend(found.map(|(i, _)| format!("{}:{}: unsafe", source.path, i + 1)));
    }
    refuse(&wrong);
}

#[test]
fn the_readme_shows_the_whole_house() {
    let readme = read(&root().join("README.md"));
    let packages = [
        "wove-proto",
        "wove-crypto",
        "wove-gossip",
        "wove-cmd",
        "wove-bench",
    ];
    let folders = [
        "proto/", "crypto/", "gossip/", "src/", "cmd/", "tests/", "bench/",
    ];
    let missing = packages
        .iter()
        .chain(&folders)
        .filter(|word| !readme.contains(**word));
    refuse(
        &missing
            .map(|word| format!("README.md does not mention {word}"))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn the_checks_themselves_work() {
    let manifest = "[dependencies]\nproto = { package = \"wove-proto\" }\nserde = \"1\"\nwove.workspace = true\n";
    assert_eq!(
        our_dependencies(manifest, &["wove", "wove-proto"]),
        ["wove-proto", "wove"]
    );
    let source = Source {
        path: "a.rs".into(),
        text: "//! x\nlet a = crypto::b();\n".into(),
    };
    assert_eq!(mentions(&source, &["crypto::"]), ["a.rs:2: crypto::"]);
    let comment = Source {
        path: "a.rs".into(),
        text: "// as crypto:: does\n".into(),
    };
    assert!(mentions(&comment, &["crypto::"]).is_empty());
    assert_eq!(occurrences(&comment, &["crypto::"]).len(), 1);
    let longer = Source {
        path: "a.rs".into(),
        text: "shell_words shell\n".into(),
    };
    assert_eq!(mentions(&longer, &["shell"]).len(), 1);
    assert!(has_unsafe("    unsafe { read() }") && has_unsafe("pub unsafe fn x()"));
    assert!(!has_unsafe("#![forbid(unsafe_code)] // no unsafe here"));
    assert_eq!(without_tests("a\n#[cfg(test)]\nmod tests {\n"), "a\n");
}

/// Packages of ours among the dependencies of a manifest, dev-dependencies too.
fn our_dependencies(manifest: &str, ours: &[&str]) -> Vec<String> {
    let mut section = "";
    let mut found = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        }
        let Some((name, value)) = line.split_once('=') else {
            continue;
        };
        if !section.contains("dependencies") {
            continue;
        }
        let renamed = value
            .split_once("package = \"")
            .and_then(|(_, rest)| rest.split('"').next());
        let name = name.split('.').next().unwrap_or(name).trim();
        let name = renamed.unwrap_or(name);
        if ours.contains(&name) {
            found.push(name.to_owned());
        }
    }
    found
}

/// Lines of code that contain a forbidden word; a comment may explain why not.
fn mentions(source: &Source, words: &[&str]) -> Vec<String> {
    let code = |line: &&str| !line.trim_start().starts_with("//");
    find(source, words, code)
}

/// Lines that contain a forbidden word, comments and all.
fn occurrences(source: &Source, words: &[&str]) -> Vec<String> {
    find(source, words, |_| true)
}

fn find(source: &Source, words: &[&str], applies: impl Fn(&&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for (i, line) in source
        .text
        .lines()
        .enumerate()
        .filter(|(_, line)| applies(line))
    {
        let words = words.iter().filter(|word| contains_word(line, word));
        found.extend(words.map(|word| format!("{}:{}: {word}", source.path, i + 1)));
    }
    found
}

/// Whether `word` stands in `line` on its own, not as a part of a longer name.
fn contains_word(line: &str, word: &str) -> bool {
    let in_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(in_name);
        let after = line[at + word.len()..].chars().next().is_some_and(in_name);
        let (first, last) = (word.chars().next(), word.chars().next_back());
        !(before && first.is_some_and(in_name) || after && last.is_some_and(in_name))
    })
}

fn has_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or(line);
    ["{", "fn", "impl", "trait", "extern"]
        .iter()
        .any(|next| contains_word(code, &format!("unsafe {next}")))
}

/// A file up to the tests at its end.
fn without_tests(text: &str) -> &str {
    text.rfind("#[cfg(test)]\n").map_or(text, |at| &text[..at])
}

fn is_test(path: &str) -> bool {
    path.split('/')
        .any(|part| matches!(part, "tests" | "tests.rs" | "benches"))
}

fn sources() -> Vec<Source> {
    files(&["rs"])
}

/// Every file of the repository with one of the endings.
fn files(endings: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for path in entries.map(|entry| entry.expect("a readable folder").path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() && !path.is_symlink() {
                if name != "target" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if path
                .extension()
                .is_some_and(|e| endings.iter().any(|end| e == *end))
            {
                found.push(Source {
                    text: read(&path),
                    path: relative(&path),
                });
            }
        }
    }
    assert!(!found.is_empty(), "the root is where the sources are");
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn relative(path: &Path) -> String {
    let relative = path.strip_prefix(root()).unwrap_or(path);
    relative.to_string_lossy().replace('\\', "/")
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn refuse(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}
