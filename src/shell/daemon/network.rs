//! The peer's identity and the secrets of its network: from the command line,
//! from the state directory, or made now.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use crypto::{Identity, Secret};
use rand::{CryptoRng, SeedableRng};
use rand_chacha::ChaCha20Rng;
use tokio::{sync::oneshot, task::spawn_blocking};

use super::{
    Daemon,
    work::{Answer, Done, failure},
};
use crate::{
    engine::{Reply, TokenCommand},
    shell::{config::Secrets, store::Store},
};

/// How many secrets are accepted at once.
const MAX_SECRETS: usize = 8;

/// The peer's keys, made on the first launch.
pub(super) fn identity(store: &Store, rng: &mut impl CryptoRng) -> Result<Identity> {
    if let Some(bytes) = store.identity()? {
        return Ok(Identity::from_bytes(&bytes));
    }
    let identity = Identity::generate(rng);
    store.save_identity(&identity.to_bytes())?;
    tracing::info!(peer = %identity.id().short(), "made the keys of this peer");
    Ok(identity)
}

/// The accepted secrets, the preferred first.
pub(super) struct Network {
    secrets: Vec<Secret>,
    new: bool,
    /// Others are on their way to the disk.
    changing: bool,
}

/// What the accepted secrets become.
pub(super) struct Change {
    secrets: Vec<Secret>,
    /// The one that was asked to be added.
    added: Option<Secret>,
}

impl Network {
    /// Takes what was given; else what the last launch used; else makes a new
    /// network.
    pub(super) fn load(store: &Store, given: &Secrets, rng: &mut impl CryptoRng) -> Result<Self> {
        let mut secrets = Vec::new();
        for token in &given.tokens {
            secrets.push(Secret::from_token(token)?);
        }
        for password in &given.passwords {
            secrets.push(Secret::from_password(password)?);
        }
        if secrets.len() > MAX_SECRETS {
            bail!(
                "{} secrets are given: at most {MAX_SECRETS} are accepted at once",
                secrets.len()
            );
        }
        let mut new = false;
        if secrets.is_empty()
            && let Some(lines) = store.network()?
        {
            let parsed = lines.iter().map(|line| Secret::from_line(line));
            secrets = parsed
                .collect::<Result<_, _>>()
                .context("the file `network` in the state directory")?;
        }
        if secrets.is_empty() {
            secrets.push(Secret::generate(rng));
            new = true;
        }
        save(&secrets, store)?;
        Ok(Self {
            secrets,
            new,
            changing: false,
        })
    }

    pub(super) fn secrets(&self) -> &[Secret] {
        &self.secrets
    }

    /// Says how to join a network that was just made.
    pub(super) fn announce(&self, host: String) {
        if self.new {
            tracing::info!(
                "a new network: join it on another host with `{}`",
                self.join(&host)
            );
        }
    }

    fn join(&self, host: &str) -> String {
        match self.secrets.first().and_then(Secret::token) {
            Some(token) => format!("wove launch --token {token} {host}"),
            None => format!("wove launch --password-file FILE {host}"),
        }
    }

    /// What a client is shown: the secret that was just added, else the preferred one.
    fn show(&self, added: Option<&Secret>, host: &str) -> Reply {
        let shown = added.or(self.secrets.first());
        Reply::Token {
            token: shown.and_then(Secret::token),
            join: self.join(host),
            accepted: self.secrets.len(),
        }
    }

    /// What a command makes of the accepted secrets.
    fn plan(&self, command: &TokenCommand, rng: &mut impl CryptoRng) -> Result<Change> {
        let mut secrets = self.secrets.clone();
        let mut added = None;
        match command {
            TokenCommand::Show => {}
            TokenCommand::Add { token } => {
                let secret = match token {
                    Some(text) => Secret::from_token(text)?,
                    None => Secret::generate(rng),
                };
                // As the last choice.
                if !secrets.contains(&secret) {
                    ensure!(
                        secrets.len() < MAX_SECRETS,
                        "{MAX_SECRETS} secrets are accepted already: \
                         remove one with `wove token remove`"
                    );
                    secrets.push(secret.clone());
                }
                added = Some(secret);
            }
            TokenCommand::Prefer { token } => secrets[..=self.find(token)?].rotate_right(1),
            TokenCommand::Remove { token } => {
                let at = self.find(token)?;
                ensure!(
                    secrets.len() > 1,
                    "this is the only secret of the network: \
                     add another first with `wove token add`"
                );
                secrets.remove(at);
            }
        }
        Ok(Change { secrets, added })
    }

    fn find(&self, token: &str) -> Result<usize> {
        let secret = Secret::from_token(token)?;
        let at = self.secrets.iter().position(|s| *s == secret);
        at.context("this token is not accepted here: `wove token` shows the preferred one")
    }
}

fn save(secrets: &[Secret], store: &Store) -> Result<()> {
    let lines: Vec<String> = secrets.iter().map(Secret::line).collect();
    Ok(store.save_network(&lines)?)
}

impl Daemon {
    /// Shows or changes the secrets. What cannot be kept is not done either, for the
    /// next launch would undo it: so they are in force once the disk has taken them.
    pub(super) fn token(&mut self, command: &TokenCommand, reply: oneshot::Sender<Answer>) {
        let change = match self.network.plan(command, &mut ChaCha20Rng::from_os_rng()) {
            Ok(change) => change,
            Err(error) => return drop(reply.send(Err(failure(&error)))),
        };
        if change.secrets == self.network.secrets {
            let shown = self.network.show(change.added.as_ref(), &self.join_host());
            return drop(reply.send(Ok(shown)));
        }
        if std::mem::replace(&mut self.network.changing, true) {
            let error = anyhow!("another change of the secrets waits for the disk: try again");
            return drop(reply.send(Err(failure(&error))));
        }
        let (store, done) = (Arc::clone(&self.store), self.done_tx.clone());
        self.beside.spawn(async move {
            let secrets = change.secrets.clone();
            let kept = spawn_blocking(move || save(&secrets, &store)).await;
            let kept = kept.unwrap_or_else(|error| Err(error.into()));
            let _ = done
                .send(Done::Secrets {
                    change,
                    kept,
                    reply,
                })
                .await;
        });
    }

    pub(super) fn handle_secrets(
        &mut self,
        change: Change,
        kept: Result<()>,
        reply: oneshot::Sender<Answer>,
    ) {
        self.network.changing = false;
        let answer = match kept {
            Ok(()) => {
                self.network.secrets = change.secrets;
                self.router.set_secrets(self.network.secrets.clone());
                Ok(self.network.show(change.added.as_ref(), &self.join_host()))
            }
            Err(error) => Err(failure(&error)),
        };
        // A client that went away needs no answer.
        let _ = reply.send(answer);
    }
}
