//! The peer's identity and the secrets of its network: from the command line,
//! from the state directory, or made now.

use anyhow::{Context, Result, bail};
use crypto::{Identity, Secret};
use rand::CryptoRng;

use crate::{
    engine::Reply,
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
        Ok(Self { secrets, new })
    }

    pub(super) fn secrets(&self) -> &[Secret] {
        &self.secrets
    }

    /// What cannot be kept is not done either: it would be undone by the next launch.
    fn change(&mut self, store: &Store, change: impl FnOnce(&mut Vec<Secret>)) -> Result<()> {
        let mut secrets = self.secrets.clone();
        change(&mut secrets);
        save(&secrets, store)?;
        self.secrets = secrets;
        Ok(())
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

    pub(super) fn show(&self, host: &str) -> Reply {
        let token = self.secrets.first().and_then(Secret::token);
        Reply::Token {
            token,
            join: self.join(host),
            accepted: self.secrets.len(),
        }
    }

    /// Accepts one more secret, as the last choice.
    pub(super) fn add(
        &mut self,
        token: Option<&str>,
        store: &Store,
        rng: &mut impl CryptoRng,
    ) -> Result<Secret> {
        let secret = match token {
            Some(text) => Secret::from_token(text)?,
            None => Secret::generate(rng),
        };
        if self.secrets.contains(&secret) {
            return Ok(secret);
        }
        if self.secrets.len() >= MAX_SECRETS {
            bail!(
                "{MAX_SECRETS} secrets are accepted already: remove one with `wove token remove`"
            );
        }
        self.change(store, |secrets| secrets.push(secret.clone()))?;
        Ok(secret)
    }

    /// Makes an accepted secret the first choice.
    pub(super) fn prefer(&mut self, token: &str, store: &Store) -> Result<()> {
        let at = self.find(token)?;
        self.change(store, |secrets| secrets[..=at].rotate_right(1))
    }

    /// Accepts a secret no longer.
    pub(super) fn remove(&mut self, token: &str, store: &Store) -> Result<()> {
        let at = self.find(token)?;
        if self.secrets.len() == 1 {
            bail!(
                "this is the only secret of the network: add another first with `wove token add`"
            );
        }
        self.change(store, |secrets| {
            secrets.remove(at);
        })
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
