//! Checking the deployments of a configuration.

use std::time::Duration;

use paceline_upstream::coding::Coding;
use paceline_upstream::{
    AwsKey, Config as UpstreamConfig, Http2, Identity, NoProxy, PROVIDERS, Provider, Proxy, Secret,
    Timeouts, Trust, Url,
};
use toml::Spanned;

use crate::config::raw::{self, Kind};
use crate::config::resolve::{ResolvedDeployment, Source, expand, secret};
use crate::config::{Environment, Fault};

/// The deployments with their names and keys; an embedded engine where there are none.
pub(super) fn deployments(
    raw: &[raw::Deployment],
    environment: &Environment,
    threads: usize,
) -> (Vec<ResolvedDeployment>, Vec<Fault>) {
    let (mut deployments, mut faults) = (Vec::<ResolvedDeployment>::new(), Vec::new());
    for deployment in raw {
        match self::deployment(deployment, environment, threads) {
            Ok(resolved) => {
                for resolved in resolved {
                    if deployments.iter().any(|known| known.name == resolved.name) {
                        let message = format!("two deployments are named `{}`", resolved.name);
                        let help = "give each a name of its own";
                        faults.push(Fault::at(deployment.name.span(), message, help));
                    } else {
                        deployments.push(resolved);
                    }
                }
            }
            Err(found) => faults.extend(found),
        }
    }
    if deployments.is_empty() {
        deployments.push(ResolvedDeployment::engine("simulated".to_owned(), Source::Embedded));
    }
    (deployments, faults)
}

fn deployment(
    raw: &raw::Deployment,
    environment: &Environment,
    threads: usize,
) -> Result<Vec<ResolvedDeployment>, Vec<Fault>> {
    let mut faults = Vec::new();
    let name = raw.name.get_ref();
    if name.is_empty() || name.len() > 64 || !name.bytes().all(|b| b.is_ascii_graphic()) {
        let help = "1 to 64 printable ASCII characters without spaces";
        faults.push(Fault::at(raw.name.span(), "`name` is no valid name", help));
    }
    let provider = provider(&raw.provider, name).and_then(|provider| dated(raw, provider));
    let url = provider.as_ref().map_err(Clone::clone).and_then(|p| url(raw, p, environment));
    let keys = keys(raw, environment);
    if raw.models.as_ref().is_some_and(Vec::is_empty) {
        faults.push(Fault::at(
            raw.name.span(),
            format!("`models` of `{name}` is empty, so it would serve nothing"),
            "name its models, or leave the field out to serve any",
        ));
    }
    let timeouts = &raw.timeouts;
    let ms = Duration::from_millis;
    let aws = raw.aws.as_ref().map(|aws| self::aws(aws, environment)).transpose();
    let trust = trust(raw);
    let proxy = url.as_ref().map_err(Clone::clone).and_then(|url| proxy(raw, url, environment));
    let per_thread = |set: Option<usize>, usual: usize| set.unwrap_or(usual).div_ceil(threads);
    match (provider, url, keys, trust, aws, proxy) {
        (Ok(provider), Ok(url), Ok(keys), Ok(trust), Ok(aws), Ok(proxy)) if faults.is_empty() => {
            let config = UpstreamConfig {
                provider,
                aws,
                api_version: raw
                    .api_version
                    .as_ref()
                    .map(|version| version.get_ref().as_str().into()),
                http2: match raw.http2 {
                    raw::Http2::Auto => Http2::Auto,
                    raw::Http2::Never => Http2::Never,
                    raw::Http2::Always => Http2::Always,
                },
                timeouts: Timeouts {
                    connect: ms(timeouts.connect_ms),
                    first_byte: ms(timeouts.first_byte_ms),
                    idle: ms(timeouts.idle_ms),
                    total: ms(timeouts.total_ms),
                    slot: ms(timeouts.slot_ms),
                },
                compress_requests: raw.compress_requests.map(|coding| match coding {
                    raw::Coding::Zstd => Coding::Zstd,
                    raw::Coding::Gzip => Coding::Gzip,
                }),
                proxy,
                idle_connections_min: per_thread(raw.idle_connections_min, provider.idle.0),
                idle_connections_max: per_thread(raw.idle_connections_max, provider.idle.1),
                idle_expiry: ms(raw.idle_expiry_ms),
                calls_max: raw.calls_max,
                whole_bytes_max: raw.whole_bytes_max,
                ..UpstreamConfig::new(name.as_str(), url)
            };
            let kind = if provider.engine { Kind::Engine } else { Kind::Provider };
            let resolved = |(name, api_key): (String, Option<Secret>)| {
                let config =
                    UpstreamConfig { name: name.as_str().into(), api_key, ..config.clone() };
                ResolvedDeployment {
                    name,
                    kind: raw.kind.unwrap_or(kind),
                    provider,
                    models: raw.models.clone(),
                    rename: raw.rename.clone().into_iter().collect(),
                    source: Source::Http(Box::new(config), trust.clone()),
                }
            };
            Ok(keys.into_iter().map(resolved).collect())
        }
        (provider, url, keys, trust, aws, proxy) => {
            // What is missing for want of another is no fault of its own.
            let proxy = if url.is_err() { None } else { proxy.err() };
            let url = if provider.is_err() { None } else { url.err() };
            let found = [provider.err(), url, trust.err(), aws.err(), proxy];
            faults.extend(found.into_iter().flatten());
            faults.extend(keys.err().unwrap_or_default());
            Err(faults)
        }
    }
}

/// The names and keys of a deployment: one, or one for each of its keys.
fn keys(
    raw: &raw::Deployment,
    environment: &Environment,
) -> Result<Vec<(String, Option<Secret>)>, Vec<Fault>> {
    let name = raw.name.get_ref();
    let read = |key: &Spanned<String>| {
        let text = secret(key, environment)?;
        Secret::new(&text).ok_or_else(|| {
            let message = format!("a key of `{name}` has characters that no header may carry");
            Fault::at(key.span(), message, "look for a line break at its end")
        })
    };
    match (&raw.api_key, &raw.api_keys[..]) {
        (Some(key), []) => Ok(vec![(name.clone(), Some(read(key).map_err(|fault| vec![fault])?))]),
        (None, []) => Ok(vec![(name.clone(), None)]),
        (None, keys) => {
            let (mut read_keys, mut faults) = (Vec::new(), Vec::new());
            for (at, key) in (1..).zip(keys) {
                match read(key) {
                    Ok(key) => read_keys.push((format!("{name}/{at}"), Some(key))),
                    Err(fault) => faults.push(fault),
                }
            }
            if faults.is_empty() { Ok(read_keys) } else { Err(faults) }
        }
        (Some(key), _) => {
            let message = format!("`{name}` has both `api_key` and `api_keys`");
            Err(vec![Fault::at(key.span(), message, "move it to `api_keys`")])
        }
    }
}

fn aws(raw: &raw::Aws, environment: &Environment) -> Result<AwsKey, Fault> {
    let read = |text: &Spanned<String>| secret(text, environment);
    Ok(AwsKey {
        region: read(&raw.region)?,
        access_key_id: read(&raw.access_key_id)?,
        secret_access_key: read(&raw.secret_access_key)?,
        session_token: raw.session_token.as_ref().map(read).transpose()?,
    })
}

/// Whom a deployment's TLS trusts, and what it shows of itself.
fn trust(raw: &raw::Deployment) -> Result<Trust, Fault> {
    let ca = raw.ca_file.as_ref().map(certificates).transpose()?.unwrap_or_default();
    let identity = match (&raw.client_certificate, &raw.client_key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => {
            let read = |path: &Spanned<String>| {
                std::fs::read(path.get_ref()).map_err(|error| {
                    let message = format!("cannot read {}: {error}", path.get_ref());
                    Fault::at(path.span(), message, "give the path of a PEM file")
                })
            };
            let identity = Identity::read(&read(certificate)?, &read(key)?);
            Some(identity.map_err(|error| {
                let help = "give PEM files of a certificate and of its own key";
                Fault::at(certificate.span(), error.to_string(), help)
            })?)
        }
        (Some(lone), None) | (None, Some(lone)) => {
            let message = "`client_certificate` and `client_key` belong together";
            return Err(Fault::at(lone.span(), message, "give both, or none"));
        }
    };
    Ok(Trust { ca, identity })
}

/// The proxy on the way to a deployment: its own setting, or what the environment says.
fn proxy(
    raw: &raw::Deployment,
    url: &Url,
    environment: &Environment,
) -> Result<Option<Proxy>, Fault> {
    if let Some(set) = &raw.proxy {
        let text = expand(set, environment)?;
        if text == "none" {
            return Ok(None);
        }
        let proxy = text.parse::<Proxy>().map_err(|error| {
            let message = format!("`proxy` is no address of a proxy: {error}");
            Fault::at(set.span(), message, "as in http://proxy.example:3128, or none")
        });
        return proxy.map(Some);
    }
    let either = |name: &str| {
        let found = environment.get(&name.to_ascii_lowercase()).or(environment.get(name));
        found.filter(|value| !value.is_empty())
    };
    let name = if url.is_tls() { "HTTPS_PROXY" } else { "HTTP_PROXY" };
    let Some(text) = either(name).or_else(|| either("ALL_PROXY")) else { return Ok(None) };
    if NoProxy::new(either("NO_PROXY").unwrap_or_default()).holds(url) {
        return Ok(None);
    }
    let proxy = text.parse::<Proxy>().map_err(|error| {
        let message = format!("the environment's {name} is no address of a proxy: {error}");
        Fault::plain(message, "mend it, or set `proxy = \"none\"` for this deployment")
    });
    proxy.map(Some)
}

/// The provider that a deployment names.
fn provider(named: &Spanned<String>, deployment: &str) -> Result<&'static Provider, Fault> {
    Provider::find(named.get_ref()).ok_or_else(|| {
        let message = format!("`provider` of `{deployment}` is unknown: {}", named.get_ref());
        let names: Vec<&str> = PROVIDERS.iter().map(|provider| provider.name).collect();
        Fault::at(named.span(), message, format!("one of {}", names.join(", ")))
    })
}

/// The provider as it is asked by the date of its API, where that is set.
fn dated(raw: &raw::Deployment, provider: &'static Provider) -> Result<&'static Provider, Fault> {
    let Some(version) = &raw.api_version else { return Ok(provider) };
    let name = raw.name.get_ref();
    let usable = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if version.get_ref().is_empty() || !version.get_ref().bytes().all(usable) {
        let message = format!("`api_version` of `{name}` is no date of Azure's API");
        return Err(Fault::at(version.span(), message, "write it as in \"2024-10-21\""));
    }
    provider.dated().ok_or_else(|| {
        let message = format!("`{name}` has an `api_version`, and {} has none", provider.name);
        Fault::at(version.span(), message, "leave it out, or set provider = \"azure\"")
    })
}

/// The base URL of a deployment: its own, or its provider's.
fn url(
    raw: &raw::Deployment,
    provider: &Provider,
    environment: &Environment,
) -> Result<Url, Fault> {
    let name = raw.name.get_ref();
    let (text, span) = match (&raw.url, provider.url, &raw.aws) {
        (Some(url), ..) => (expand(url, environment)?, url.span()),
        (None, Some(url), _) => (url.to_owned(), raw.name.span()),
        (None, None, Some(aws)) => {
            let region = expand(&aws.region, environment)?;
            (format!("https://bedrock-runtime.{region}.amazonaws.com"), aws.region.span())
        }
        (None, None, None) => {
            let message =
                format!("`{name}` has no `url`, and `{}` has no usual one", provider.name);
            return Err(Fault::at(raw.name.span(), message, "add url = \"https://…\""));
        }
    };
    text.parse::<Url>().map_err(|error| {
        Fault::at(
            span,
            format!("`url` of `{name}` is no base URL: {error}"),
            "as in https://api.openai.com/v1",
        )
    })
}

fn certificates(path: &Spanned<String>) -> Result<Vec<Vec<u8>>, Fault> {
    let fail = |what: String| {
        Fault::at(
            path.span(),
            format!("`ca_file`: {what}"),
            "give the path of a PEM file with certificates",
        )
    };
    let pem = std::fs::read(path.get_ref())
        .map_err(|error| fail(format!("cannot read {}: {error}", path.get_ref())))?;
    let found = paceline_upstream::certificates(&pem);
    if found.is_empty() {
        return Err(fail(format!("{} holds no certificate", path.get_ref())));
    }
    Ok(found)
}
