//! From strangers to a session in three datagrams (design D5), typed by phase.
//! Knows no addresses and no time: the caller retransmits and gives up.
//!
//! ```text
//! initiator                                         responder
//! start        -- e            | sender, padding -->  accept
//! read_response <- e,ee,s,es   | indices, hello  ---
//!              -- s,se,psk     | indices, hello  -->  complete
//! ```
//!
//! **What is authenticated.** The payloads repeat both session indices, and
//! both hellos are in them, so whoever changes a byte of any message ends the
//! handshake. Only the cookie and the two reserved bytes of a datagram are
//! outside: nothing is derived from them. A member proves itself to the
//! responder with the completion, but to the initiator only with the first
//! datagram that opens: until then [`Established`] on the initiator's side is
//! a stranger's claim (one who cannot read what is sealed to it).
//!
//! **Amplification.** The initiation is padded to [`INITIATION`] bytes and
//! [`Responder::accept`] refuses one that is shorter than its own answer.
//! Cookie reply and rejection are shorter than any handshake header.
//!
//! **Paths of 1280 bytes** carry 1232 bytes of UDP payload over IPv6. The
//! initiation leaves room for one hop of relaying below that.
//!
//! **Post-quantum.** An ML-KEM-768 key has 1184 bytes: with header, ephemeral
//! key and tag the initiation would have 1268, 36 too many, and in the response
//! it would break the rule on amplification. So it gets an exchange of its own
//! inside the fresh session, announced by a capability bit that the transcript
//! binds: the initiator sends the key (16 + 1184 + 16 bytes of datagram leave
//! 16 for the content's header), the responder the ciphertext (1088 bytes), and
//! both derive the keys of the session that carries frames from the exporter
//! of the first and the shared secret. No message here has to change.

use proto::{
    PeerId, PublicKeys,
    datagram::{Cookie, HANDSHAKE_HEADER, Handshake, RejectReason, SessionIndex, Stage},
};
use rand::CryptoRng;
use zeroize::Zeroizing;

use crate::{
    cipher::Cipher,
    hello::{Hello, HelloError, MAX_HELLO},
    keys::{Identity, peer_id},
    noise::{KEY, NOISE_TAG, Noise, Secrets},
    secret::Secret,
    session::{Material, Session},
};

/// Bytes of an initiation datagram: no less than any answer, and small enough
/// for paths far below what IPv6 asks for.
pub const INITIATION: usize = 660;
/// Bytes of an initiation that a responder still reads. Relayed over one link
/// (34 bytes of hop header, 32 of sealing) it fits a path of 1280 bytes.
pub const MAX_INITIATION: usize = 1166;
/// Responses that one attempt reads successfully, at most.
const MAX_ANSWERS: usize = 8;

/// The outcome of a handshake, at either end.
#[derive(Debug)]
pub struct Established {
    /// The other end's public keys.
    pub keys: PublicKeys,
    /// The name that follows from them.
    pub peer: PeerId,
    /// What it said of itself.
    pub hello: Hello,
    /// The newest protocol version both speak.
    pub version: u16,
    /// The cipher both do well.
    pub cipher: Cipher,
    /// Whether frames must be encrypted: false only if both ends say no.
    pub encrypt: bool,
    /// The keys.
    pub session: Session,
    /// Which of the secrets given fitted: its place in the list.
    pub secret: usize,
}

/// Why a handshake message was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Another stage, or the index of another handshake.
    #[error("handshake message out of place")]
    Stage,
    /// Its size is none that this message may have.
    #[error("handshake message of a wrong size")]
    Size,
    /// It does not authenticate: forged, damaged, or of another attempt.
    #[error("handshake message does not authenticate")]
    Forged,
    /// None of the secrets fits.
    #[error("no network secret in common: check the token or password on both peers")]
    Secret,
    /// The other end has our keys: it is this peer, or a copy of its state.
    #[error(
        "the other peer has this peer's own keys: it is itself, or its state directory was copied"
    )]
    Identity,
    /// No protocol version in common.
    #[error("no protocol version in common: upgrade the older peer")]
    Version,
    /// The response is not of the peer that is meant.
    #[error("somebody else answered")]
    Stranger,
    /// The hello inside does not decode, or our own is too large.
    #[error(transparent)]
    Hello(#[from] HelloError),
    /// This attempt has done its work.
    #[error("this handshake is over")]
    Spent,
}

impl HandshakeError {
    /// What to tell the other end, if anything. Never for a message that does
    /// not authenticate.
    pub fn reject_reason(&self) -> Option<RejectReason> {
        match self {
            Self::Secret => Some(RejectReason::Secret),
            Self::Identity => Some(RejectReason::Identity),
            Self::Version => Some(RejectReason::Version),
            Self::Stage
            | Self::Size
            | Self::Forged
            | Self::Hello(_)
            | Self::Stranger
            | Self::Spent => None,
        }
    }
}

/// This end began, and waits for a response.
pub struct Initiator {
    end: End,
    datagram: Vec<u8>,
    /// Whose response counts; if none, anybody's.
    meant: Option<PeerId>,
    /// The ephemeral keys of the responses read so far.
    answered: Vec<[u8; KEY]>,
}

impl Initiator {
    /// Begins. `index` is the one that the other end shall send to; `hello` is
    /// completed with the identity's signing key. Also returns the datagram to
    /// send. Fails only if `hello` is over its limits.
    pub fn start(
        identity: &Identity,
        hello: &Hello,
        index: SessionIndex,
        rng: &mut impl CryptoRng,
    ) -> Result<(Self, Vec<u8>), HandshakeError> {
        let end = End::new(identity, hello, index, rng)?;
        let (_, noise) = end.begin()?;
        let message = Handshake {
            stage: Stage::Initiation,
            sender: index,
            receiver: 0,
            cookie: NO_COOKIE,
            noise: &noise,
        };
        let datagram = message.emit();
        Ok((
            Self {
                end,
                datagram: datagram.clone(),
                meant: None,
                answered: Vec::new(),
            },
            datagram,
        ))
    }

    /// From now on, any other peer's response is [`HandshakeError::Stranger`]'s.
    pub fn expect(&mut self, peer: PeerId) {
        self.meant = Some(peer);
    }

    /// The initiation, to send again.
    pub fn datagram(&self) -> &[u8] {
        &self.datagram
    }

    /// The index this end chose.
    pub fn local(&self) -> SessionIndex {
        self.end.local
    }

    /// The same initiation with the cookie that the responder asked for.
    pub fn with_cookie(&self, cookie: &Cookie) -> Vec<u8> {
        let mut datagram = self.datagram.clone();
        datagram[COOKIE_AT..HANDSHAKE_HEADER].copy_from_slice(cookie);
        datagram
    }

    /// Reads a response and returns the session and the completion to send
    /// (and to send again if the response comes again: that is then
    /// [`HandshakeError::Spent`]).
    ///
    /// Whatever this returns, the attempt stays good for another response, so
    /// neither a forged one nor one of an impostor who got in first ends it.
    pub fn read_response(
        &mut self,
        message: &Handshake<'_>,
        secret: &Secret,
    ) -> Result<(Established, Vec<u8>), HandshakeError> {
        self.end.check_place(message, Stage::Response)?;
        let ephemeral = *message
            .noise
            .first_chunk::<KEY>()
            .ok_or(HandshakeError::Size)?;
        // One response, one session: a second would use the same keys and
        // begin its counter at zero again.
        if self.answered.len() >= MAX_ANSWERS || self.answered.contains(&ephemeral) {
            return Err(HandshakeError::Spent);
        }
        let (mut noise, _) = self.end.begin()?;
        let payload = noise
            .read(message.noise)
            .map_err(|_| HandshakeError::Forged)?;
        let (keys, hello) = self.end.read_payload(&noise, message, &payload)?;
        if self.meant.is_some_and(|meant| meant != peer_id(&keys)) {
            return Err(HandshakeError::Stranger);
        }
        let version = self.end.check(&keys, &hello)?;

        noise.set_psk(&Zeroizing::new(secret.psk()));
        let bytes = noise
            .write(&self.end.payload(message.sender))
            .map_err(|_| HandshakeError::Forged)?;
        let completion = Handshake {
            stage: Stage::Completion,
            sender: self.end.local,
            receiver: message.sender,
            cookie: NO_COOKIE,
            noise: &bytes,
        };
        self.answered.push(ephemeral);
        let found = Found {
            keys,
            hello,
            version,
            remote: message.sender,
            secret: 0,
        };
        Ok((self.end.establish(noise, found, true), completion.emit()))
    }
}

/// This end answered an initiation, and waits for the completion.
pub struct Responder {
    end: End,
    remote: SessionIndex,
    initiation: Vec<u8>,
    response: Vec<u8>,
    /// Where the handshake stands; built again if a wrong secret used it up.
    noise: Option<Noise>,
    spent: bool,
}

impl Responder {
    /// Answers an initiation. `index` is the one that the other end shall send
    /// to. Also returns the response to send. Costs a few X25519 operations, so
    /// [`crate::HandshakeLimiter`] and [`crate::CookieJar`] come first.
    pub fn accept(
        identity: &Identity,
        hello: &Hello,
        index: SessionIndex,
        message: &Handshake<'_>,
        rng: &mut impl CryptoRng,
    ) -> Result<(Self, Vec<u8>), HandshakeError> {
        if message.stage != Stage::Initiation || message.receiver != 0 {
            return Err(HandshakeError::Stage);
        }
        let end = End::new(identity, hello, index, rng)?;
        let size = HANDSHAKE_HEADER + message.noise.len();
        if size > MAX_INITIATION || size < end.response_size() {
            return Err(HandshakeError::Size);
        }
        let (noise, bytes) = end.answer(message.noise, message.sender)?;
        let response = Handshake {
            stage: Stage::Response,
            sender: index,
            receiver: message.sender,
            cookie: NO_COOKIE,
            noise: &bytes,
        };
        let responder = Self {
            end,
            remote: message.sender,
            initiation: message.noise.to_vec(),
            response: response.emit(),
            noise: Some(noise),
            spent: false,
        };
        let datagram = responder.response.clone();
        Ok((responder, datagram))
    }

    /// The response, to send again when the same initiation comes again.
    pub fn datagram(&self) -> &[u8] {
        &self.response
    }

    /// Whether this answers exactly that initiation, its cookie aside.
    pub fn answers(&self, message: &Handshake<'_>) -> bool {
        message.stage == Stage::Initiation
            && message.sender == self.remote
            && message.noise == self.initiation
    }

    /// The index this end chose.
    pub fn local(&self) -> SessionIndex {
        self.end.local
    }

    /// The index the initiator chose.
    pub fn remote(&self) -> SessionIndex {
        self.remote
    }

    /// Reads the completion, trying each secret in turn. After an error other
    /// than `Identity`, `Version` or `Hello` (which only a member can cause)
    /// the genuine completion is still welcome. But where the secret was wrong, the
    /// state is built again at the next call, which costs as much as
    /// [`Responder::accept`]: whoever calls sees to it that a stranger cannot repeat it.
    pub fn complete(
        &mut self,
        message: &Handshake<'_>,
        secrets: &[Secret],
    ) -> Result<Established, HandshakeError> {
        if self.spent {
            return Err(HandshakeError::Spent);
        }
        self.end.check_place(message, Stage::Completion)?;
        if message.sender != self.remote {
            return Err(HandshakeError::Stage);
        }
        for (secret, candidate) in secrets.iter().enumerate() {
            let mut noise = self.take_noise()?;
            noise.set_psk(&Zeroizing::new(candidate.psk()));
            if let Ok(payload) = noise.read(message.noise) {
                self.spent = true;
                return self.finish(noise, message, &payload, secret);
            }
            // The static key comes before the secret: if not even that could
            // be read, no secret helps, and the state has not moved.
            if noise.remote_static().is_none() {
                self.noise = Some(noise);
                return Err(HandshakeError::Forged);
            }
        }
        Err(HandshakeError::Secret)
    }

    fn take_noise(&mut self) -> Result<Noise, HandshakeError> {
        if let Some(noise) = self.noise.take() {
            return Ok(noise);
        }
        self.end
            .answer(&self.initiation, self.remote)
            .map(|(noise, _)| noise)
    }

    fn finish(
        &self,
        noise: Noise,
        message: &Handshake<'_>,
        payload: &[u8],
        secret: usize,
    ) -> Result<Established, HandshakeError> {
        let (keys, hello) = self.end.read_payload(&noise, message, payload)?;
        let version = self.end.check(&keys, &hello)?;
        let found = Found {
            keys,
            hello,
            version,
            remote: self.remote,
            secret,
        };
        Ok(self.end.establish(noise, found, false))
    }
}

const NO_COOKIE: Cookie = [0; 16];
const COOKIE_AT: usize = HANDSHAKE_HEADER - NO_COOKIE.len();
/// Both session indices, at the front of every payload.
const INDICES: usize = 8;

// The largest response must not exceed the initiation, nor that a small path.
const _: () =
    assert!(HANDSHAKE_HEADER + 2 * KEY + 2 * NOISE_TAG + INDICES + MAX_HELLO <= INITIATION);
const _: () = assert!(INITIATION <= MAX_INITIATION);

/// What both roles have: their keys and what they say.
struct End {
    secrets: Secrets,
    public: PublicKeys,
    local: SessionIndex,
    hello: Hello,
    encoded: Vec<u8>,
}

/// What a handshake found out about the other end.
struct Found {
    keys: PublicKeys,
    hello: Hello,
    version: u16,
    remote: SessionIndex,
    secret: usize,
}

impl End {
    fn new(
        identity: &Identity,
        hello: &Hello,
        local: SessionIndex,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, HandshakeError> {
        let hello = Hello {
            sign_key: identity.public().sign,
            ..hello.clone()
        };
        let encoded = hello.encode()?;
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *seed);
        let secrets = Secrets {
            exchange: identity.exchange_secret(),
            seed,
        };
        Ok(Self {
            secrets,
            public: identity.public(),
            local,
            hello,
            encoded,
        })
    }

    /// The initiator's state after its first message, and that message.
    fn begin(&self) -> Result<(Noise, Vec<u8>), HandshakeError> {
        let mut noise = Noise::initiator(&self.secrets);
        let mut payload = [0; INITIATION - HANDSHAKE_HEADER - KEY - NOISE_TAG];
        payload[..INDICES].copy_from_slice(&indices(self.local, 0));
        let message = noise.write(&payload).map_err(|_| HandshakeError::Forged)?;
        Ok((noise, message))
    }

    /// The responder's state after its answer, and that answer.
    fn answer(
        &self,
        initiation: &[u8],
        remote: SessionIndex,
    ) -> Result<(Noise, Vec<u8>), HandshakeError> {
        let mut noise = Noise::responder(&self.secrets);
        let payload = noise.read(initiation).map_err(|_| HandshakeError::Forged)?;
        if !payload.starts_with(&indices(remote, 0)) {
            return Err(HandshakeError::Forged);
        }
        let message = noise
            .write(&self.payload(remote))
            .map_err(|_| HandshakeError::Forged)?;
        Ok((noise, message))
    }

    /// What this end says once it is encrypted.
    fn payload(&self, remote: SessionIndex) -> Vec<u8> {
        [&indices(self.local, remote)[..], &self.encoded].concat()
    }

    fn response_size(&self) -> usize {
        HANDSHAKE_HEADER + 2 * KEY + 2 * NOISE_TAG + INDICES + self.encoded.len()
    }

    fn check_place(&self, message: &Handshake<'_>, stage: Stage) -> Result<(), HandshakeError> {
        if message.stage != stage || message.receiver != self.local || message.cookie != NO_COOKIE {
            return Err(HandshakeError::Stage);
        }
        // Header and all, no message is larger than the largest initiation.
        if HANDSHAKE_HEADER + message.noise.len() > MAX_INITIATION {
            return Err(HandshakeError::Size);
        }
        Ok(())
    }

    /// Takes apart what the other end said under encryption.
    fn read_payload(
        &self,
        noise: &Noise,
        message: &Handshake<'_>,
        payload: &[u8],
    ) -> Result<(PublicKeys, Hello), HandshakeError> {
        let hello = payload
            .strip_prefix(&indices(message.sender, self.local))
            .ok_or(HandshakeError::Forged)?;
        let hello = Hello::decode(hello)?;
        let exchange = noise.remote_static().ok_or(HandshakeError::Forged)?;
        Ok((
            PublicKeys {
                sign: hello.sign_key,
                exchange,
            },
            hello,
        ))
    }

    /// Whether the other end is one to have a session with; the version to speak.
    fn check(&self, keys: &PublicKeys, hello: &Hello) -> Result<u16, HandshakeError> {
        // Either key alone would do for confusion.
        if keys.exchange == self.public.exchange || keys.sign == self.public.sign {
            return Err(HandshakeError::Identity);
        }
        self.hello
            .common_version(hello)
            .ok_or(HandshakeError::Version)
    }

    fn establish(&self, noise: Noise, found: Found, initiator: bool) -> Established {
        let cipher = self.hello.ciphers.agree(found.hello.ciphers);
        let encrypt = self.hello.encrypt || found.hello.encrypt;
        let (split, transcript) = noise.split();
        let session = Session::new(&Material {
            local: self.local,
            remote: found.remote,
            initiator,
            cipher,
            encrypt,
            split: &split,
            transcript: &transcript,
        });
        Established {
            peer: peer_id(&found.keys),
            keys: found.keys,
            hello: found.hello,
            version: found.version,
            cipher,
            encrypt,
            session,
            secret: found.secret,
        }
    }
}

fn indices(sender: SessionIndex, receiver: SessionIndex) -> [u8; INDICES] {
    let mut bytes = [0; INDICES];
    bytes[..4].copy_from_slice(&sender.to_be_bytes());
    bytes[4..].copy_from_slice(&receiver.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests;
