//! How a Redis is reached: its URL, taken apart and checked, and the time-outs.
//!
//! Nothing is asked here, and no text of a URL is repeated in an error: it may hold a password.

use std::fmt;
use std::time::Duration;

use crate::domain::Secret;

/// The schemes that are taken: whether they ask sentinels, and whether by TLS.
const SCHEMES: [(&str, bool, bool); 4] = [
    ("redis://", false, false),
    ("rediss://", false, true),
    ("redis+sentinel://", true, false),
    ("rediss+sentinel://", true, true),
];
const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// Where a Redis is, and how to get in. Prints without its password.
///
/// ```
/// use runner_manager_core::redis::{RedisServers, RedisSettings};
///
/// let settings = RedisSettings::new("redis+sentinel://ops:pa%40ss@one,two:26380/main/3", "rm:{acme}")?;
/// assert_eq!(settings.database, 3);
/// assert_eq!(settings.password.as_ref().map(|password| password.expose()), Some("pa@ss"));
/// assert_eq!(settings.servers.to_string(), "the master of `main` by the sentinels one:26379, two:26380");
/// assert!(!format!("{settings:?}").contains("pa@ss"));
/// # Ok::<(), runner_manager_core::redis::RedisUrlError>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RedisSettings {
    /// Where it is.
    pub servers: RedisServers,
    /// Whether it, and its sentinels, are talked to by TLS.
    pub tls: bool,
    /// The certificates, in PEM, that theirs are checked with. Default those of the system.
    pub ca: Option<String>,
    /// As which user. Default the server's own default user.
    pub user: Option<String>,
    /// The password. Default none. Sentinels get it, too, where they ask for one.
    pub password: Option<Secret>,
    /// The number of the database. Default 0.
    pub database: u32,
    /// What the names of all keys of the deployment begin with. One part of it stands in braces, so that a
    /// Redis Cluster keeps them all on one node.
    pub prefix: String,
    /// How long connecting may take, signing in included. Default [`Self::CONNECT_TIMEOUT`].
    pub connect_timeout: Duration,
    /// How long an answer may take; for one that is waited for, beyond that wait. Default
    /// [`Self::RESPONSE_TIMEOUT`].
    pub response_timeout: Duration,
}

/// Where a Redis is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisServers {
    /// At one address.
    One(RedisAddress),
    /// Where its sentinels say that the master is.
    Sentinels {
        /// The sentinels, asked in this order.
        sentinels: Vec<RedisAddress>,
        /// What the master is called by them.
        service: String,
    },
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisAddress {
    /// The name or address of the host; one of version 6 without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Why a text is no URL of a Redis. Does not repeat the text, which may have a password in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RedisUrlError {
    /// Its scheme is another one.
    #[error(
        "expected a URL that begins with redis://, rediss:// (TLS), redis+sentinel:// or rediss+sentinel://"
    )]
    Scheme,
    /// It names no host.
    #[error("expected a host, such as in redis://redis.example.com:6379/0")]
    Host,
    /// It names several hosts, but no sentinels.
    #[error("several hosts are for redis+sentinel:// and rediss+sentinel:// alone")]
    Hosts,
    /// What should be a port is none.
    #[error("expected a port from 1 to 65535 behind the host (an IPv6 address stands in brackets)")]
    Port,
    /// What should be the number of a database is none.
    #[error("expected the number of a database behind the last /, such as 0")]
    Database,
    /// It has sentinels, but does not say what the master is called.
    #[error("expected what the sentinels call the master, such as in redis+sentinel://HOST:26379/mymaster")]
    Service,
    /// The user or the password has a stray `%`.
    #[error("the user or the password has a % without two hexadecimal digits behind it: write it as %25")]
    Escape,
    /// It has a user, but no password.
    #[error("it names a user, but no password: write redis://USER:PASSWORD@HOST, or redis://:PASSWORD@HOST")]
    NoPassword,
    /// It has a query or a fragment.
    #[error("expected a URL without query and fragment (in a password write ? as %3F and # as %23)")]
    Extra,
    /// The prefix has no part in braces, or more than one.
    #[error("expected a prefix with one part in braces, such as rm:{{acme}}, at most 128 visible characters")]
    Prefix,
}

impl RedisSettings {
    /// How long connecting may take, unless said otherwise.
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
    /// How long an answer may take, unless said otherwise.
    pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

    /// Takes a URL apart: `redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]`, or
    /// `redis+sentinel://[[USER]:PASSWORD@]HOST[:PORT][,HOST[:PORT]...]/SERVICE[/DATABASE]`; `rediss` instead
    /// of `redis` means TLS.
    ///
    /// # Errors
    /// When the URL or the prefix cannot be used.
    pub fn new(url: &str, prefix: &str) -> Result<Self, RedisUrlError> {
        let settings = Self::with_password_elsewhere(url, prefix)?;
        if settings.user.is_some() && settings.password.is_none() {
            return Err(RedisUrlError::NoPassword);
        }
        Ok(settings)
    }

    /// As [`new`](Self::new), for a URL whose password may stand elsewhere.
    pub(crate) fn with_password_elsewhere(url: &str, prefix: &str) -> Result<Self, RedisUrlError> {
        let url = url.trim();
        let scheme = SCHEMES
            .iter()
            .find_map(|(scheme, by_sentinels, tls)| Some((url.strip_prefix(scheme)?, *by_sentinels, *tls)));
        let (rest, by_sentinels, tls) = scheme.ok_or(RedisUrlError::Scheme)?;
        // Neither hosts nor what follows them have an @, so a password may.
        let (sign_in, place) = rest.rsplit_once('@').map_or((None, rest), |(of, place)| (Some(of), place));
        if place.contains(['?', '#']) {
            return Err(RedisUrlError::Extra);
        }
        let (user, password) = sign_in.map_or(Ok((None, None)), user_and_password)?;
        let (servers, database) = if by_sentinels { sentinels(place)? } else { one(place)? };
        Ok(Self {
            servers,
            tls,
            ca: None,
            user,
            password: password.map(Secret::new),
            database,
            prefix: checked_prefix(prefix)?,
            connect_timeout: Self::CONNECT_TIMEOUT,
            response_timeout: Self::RESPONSE_TIMEOUT,
        })
    }
}

impl fmt::Display for RedisServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(address) => address.fmt(f),
            Self::Sentinels { sentinels, service } => {
                let sentinels = sentinels.iter().map(ToString::to_string).collect::<Vec<_>>();
                write!(f, "the master of `{service}` by the sentinels {}", sentinels.join(", "))
            }
        }
    }
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

fn user_and_password(text: &str) -> Result<(Option<String>, Option<String>), RedisUrlError> {
    let (user, password) = text.split_once(':').map_or((text, ""), |(user, password)| (user, password));
    let [user, password] =
        [user, password].map(|text| if text.is_empty() { Ok(None) } else { unescaped(text).map(Some) });
    Ok((user?, password?))
}

fn unescaped(text: &str) -> Result<String, RedisUrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (code, behind) = rest.split_at_checked(2).ok_or(RedisUrlError::Escape)?;
        bytes.extend(hex::decode(code).map_err(|_| RedisUrlError::Escape)?);
        rest = behind;
    }
    String::from_utf8(bytes).map_err(|_| RedisUrlError::Escape)
}

fn one(place: &str) -> Result<(RedisServers, u32), RedisUrlError> {
    let (host, path) = place.split_once('/').unwrap_or((place, ""));
    if host.contains(',') {
        return Err(RedisUrlError::Hosts);
    }
    Ok((RedisServers::One(address(host, REDIS_PORT)?), database(path)?))
}

fn sentinels(place: &str) -> Result<(RedisServers, u32), RedisUrlError> {
    let (hosts, path) = place.split_once('/').unwrap_or((place, ""));
    let sentinels = hosts.split(',').map(|host| address(host, SENTINEL_PORT)).collect::<Result<_, _>>()?;
    let (service, path) = path.split_once('/').unwrap_or((path, ""));
    if service.is_empty() {
        return Err(RedisUrlError::Service);
    }
    Ok((RedisServers::Sentinels { sentinels, service: service.to_owned() }, database(path)?))
}

fn database(path: &str) -> Result<u32, RedisUrlError> {
    match path.trim_end_matches('/') {
        "" => Ok(0),
        number if number.bytes().all(|byte| byte.is_ascii_digit()) => {
            number.parse().map_err(|_| RedisUrlError::Database)
        }
        _ => Err(RedisUrlError::Database),
    }
}

fn address(text: &str, default_port: u16) -> Result<RedisAddress, RedisUrlError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, behind) = rest.split_once(']').ok_or(RedisUrlError::Host)?;
            let port = if behind.is_empty() { None } else { behind.strip_prefix(':').or(Some("")) };
            (host, port)
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let usable = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':' | '%');
    if host.is_empty() || !host.chars().all(usable) {
        return Err(RedisUrlError::Host);
    }
    let port = match port {
        None => default_port,
        Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or(RedisUrlError::Port)?,
    };
    Ok(RedisAddress { host: host.to_owned(), port })
}

fn checked_prefix(text: &str) -> Result<String, RedisUrlError> {
    let inside = text.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(inside, _)| inside);
    let one = |brace: char| text.matches(brace).count() == 1;
    let visible = text.chars().all(|c| c.is_ascii_graphic()) && text.len() <= 128;
    if inside.is_some_and(|inside| !inside.is_empty()) && one('{') && one('}') && visible {
        Ok(text.to_owned())
    } else {
        Err(RedisUrlError::Prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::{RedisAddress, RedisServers, RedisSettings, RedisUrlError};

    fn read(url: &str) -> Result<RedisSettings, RedisUrlError> {
        RedisSettings::new(url, "rm:{acme}")
    }

    fn at(host: &str, port: u16) -> RedisAddress {
        RedisAddress { host: host.to_owned(), port }
    }

    #[test]
    fn urls_are_taken_apart() {
        for (url, host, port, database, tls) in [
            ("redis://localhost", "localhost", 6379, 0, false),
            ("redis://localhost/", "localhost", 6379, 0, false),
            ("rediss://r.example.com:7000/15", "r.example.com", 7000, 15, true),
            ("redis://[::1]:7000/1\n", "::1", 7000, 1, false),
            ("redis://[::1]", "::1", 6379, 0, false),
        ] {
            let settings = read(url).unwrap();
            assert_eq!(settings.servers, RedisServers::One(at(host, port)), "{url}");
            assert_eq!((settings.database, settings.tls), (database, tls), "{url}");
            assert!(settings.user.is_none() && settings.password.is_none(), "{url}");
        }
    }

    #[test]
    fn a_user_and_a_password_may_have_any_character() {
        for (url, user, password) in [
            ("redis://:secret@h", None, "secret"),
            ("redis://ops:a:b@h", Some("ops"), "a:b"),
            ("redis://ops:a@b/c?d#e@h/1", Some("ops"), "a@b/c?d#e"),
            ("redis://o%3Aps:%25%C3%A4@h", Some("o:ps"), "%ä"),
        ] {
            let settings = read(url).unwrap();
            assert_eq!(settings.user.as_deref(), user, "{url}");
            assert_eq!(settings.password.unwrap().expose(), password, "{url}");
            assert_eq!(settings.servers, RedisServers::One(at("h", 6379)), "{url}");
        }
    }

    #[test]
    fn sentinels_stand_side_by_side() {
        let settings = read("rediss+sentinel://u:p@a,b:1,[::1]:2/main/4").unwrap();
        let sentinels = vec![at("a", 26379), at("b", 1), at("::1", 2)];
        assert_eq!(settings.servers, RedisServers::Sentinels { sentinels, service: "main".to_owned() });
        assert!(settings.tls && settings.database == 4);
    }

    #[test]
    fn what_is_no_url_is_refused_without_repeating_it() {
        use RedisUrlError::{Database, Escape, Extra, Host, Hosts, NoPassword, Port, Scheme, Service};
        for (url, refusal) in [
            ("", Scheme),
            ("hidden.example.com:6379", Scheme),
            ("http://hidden", Scheme),
            ("REDIS:/hidden", Scheme),
            ("redis://", Host),
            ("redis://:hidden@", Host),
            ("redis://hid den", Host),
            ("redis://[::1", Host),
            ("redis://h:", Port),
            ("redis://h:hidden", Port),
            ("redis://h:0", Port),
            ("redis://h:65536", Port),
            ("redis://[::1]x", Port),
            ("redis://::1", Host),
            ("redis://h/hidden", Database),
            ("redis://h/-1", Database),
            ("redis://h/1/2", Database),
            ("redis://h/4294967296", Database),
            ("redis://a,b", Hosts),
            ("redis+sentinel://a,b", Service),
            ("redis+sentinel://a,b/", Service),
            ("redis+sentinel://a,,b/main", Host),
            ("redis+sentinel://a/main/hidden", Database),
            ("redis://u:%hidden@h", Escape),
            ("redis://u:%2@h", Escape),
            ("redis://u:%ff@h", Escape),
            ("redis://hidden@h", NoPassword),
            ("redis://h?db=hidden", Extra),
            ("redis://h/1#hidden", Extra),
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error, refusal, "{url}");
            assert!(!error.to_string().contains("hidden"), "{url}: {error}");
        }
    }

    #[test]
    fn a_prefix_has_one_hash_tag() {
        let read = |prefix: &str| RedisSettings::new("redis://h", prefix);
        for good in ["rm:{acme}", "{a}", "x{a}:y"] {
            assert_eq!(read(good).unwrap().prefix, good);
        }
        let long = format!("{{{}}}", "a".repeat(127));
        for bad in ["", "rm", "{}", "}a{", "{a", "a}", "{a}{b}", "{{a}}", "r m{a}", "ä{a}", &long] {
            assert_eq!(read(bad).unwrap_err(), RedisUrlError::Prefix, "{bad}");
        }
    }
}
