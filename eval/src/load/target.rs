//! A target of a load run, as named on the command line.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Request, Uri};

use super::driver::Prepared;
use super::tls::Tls;
use super::workload::{HttpVersion, Workload};

#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    pub name: String,
    pub url: Uri,
    /// Its processes; empty if not known.
    pub pids: Vec<u32>,
    key: Option<String>,
    model: Option<String>,
    /// PEM file with the certificate that an https target is trusted by.
    ca: Option<PathBuf>,
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Target> {
        let (name, rest) = text
            .split_once('=')
            .with_context(|| format!("{text:?}: write NAME=URL[,pid=N][,key=K][,model=M][,ca=FILE]"))?;
        let mut parts = rest.split(',');
        let url: Uri =
            parts.next().unwrap_or_default().parse().with_context(|| format!("{text:?}: the URL is not one"))?;
        if !matches!(url.scheme_str(), Some("http" | "https")) || url.host().is_none() {
            bail!("{text:?}: the URL must start with http:// or https:// and name a host");
        }
        let mut target = Target { name: name.to_string(), url, pids: Vec::new(), key: None, model: None, ca: None };
        for part in parts {
            match part.split_once('=') {
                Some(("pid", pid)) => target.pids.push(pid.parse().with_context(|| format!("{text:?}: pid {pid:?}"))?),
                Some(("key", key)) => target.key = Some(key.to_string()),
                Some(("model", model)) => target.model = Some(model.to_string()),
                Some(("ca", ca)) => target.ca = Some(ca.into()),
                _ => bail!("{text:?}: {part:?} is none of pid=, key=, model= and ca="),
            }
        }
        if target.is_tls() && target.ca.is_none() {
            bail!("{text:?}: an https target needs ca=FILE, the certificate it is trusted by, in PEM form");
        }
        Ok(target)
    }
}

impl Target {
    /// Everything one needs to send the workload here, built once.
    pub async fn prepare(&self, workload: &Workload) -> Result<Prepared> {
        let fields = &workload.fields;
        let authority = self.url.authority().map(|authority| authority.as_str()).unwrap_or_default();
        let (scheme, default_port) = if self.is_tls() { ("https", 443) } else { ("http", 80) };
        let host_and_port =
            if self.url.port().is_some() { authority.to_string() } else { format!("{authority}:{default_port}") };
        let mut addresses = tokio::net::lookup_host(&host_and_port).await.into_iter().flatten();
        // Whoever listens on the loopback here listens on IPv4.
        let address = addresses.find(std::net::SocketAddr::is_ipv4);
        let address = address.with_context(|| format!("target {}: {host_and_port} has no IPv4 address", self.name))?;
        let tls = match &self.ca {
            Some(ca) => Some(Tls::trusting(ca, self.url.host().unwrap_or_default(), fields.http)?),
            None => None,
        };
        let base = self.url.path().trim_end_matches('/');
        let aims = workload.hosts(authority).into_iter().map(|host| {
            let uri = match fields.http {
                // HTTP/1.1 sends the path alone; HTTP/2 needs scheme and host in the URI.
                HttpVersion::Http1 => format!("{base}{}", fields.path),
                HttpVersion::Http2 => format!("{scheme}://{host}{base}{}", fields.path),
            };
            let uri =
                uri.parse().with_context(|| format!("workload {}: field path or host: {uri:?}", workload.name))?;
            let host =
                HeaderValue::try_from(&host).with_context(|| format!("workload {}: host {host:?}", workload.name))?;
            Ok((uri, (fields.http == HttpVersion::Http1).then_some(host)))
        });
        let aims = aims.collect::<Result<_>>()?;
        let mut head = Request::post("/").body(())?;
        let headers = head.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = &self.key {
            headers.insert(AUTHORIZATION, HeaderValue::try_from(format!("Bearer {key}"))?);
        }
        for (name, value) in &fields.headers {
            let what = || format!("workload {}: header {name:?}: {value:?}", workload.name);
            headers.insert(
                HeaderName::try_from(name).with_context(what)?,
                HeaderValue::try_from(value).with_context(what)?,
            );
        }
        let model = self.model.as_deref().unwrap_or(&fields.model);
        let bodies = workload.bodies(model);
        Ok(Prepared { address, tls, http: fields.http, head, aims, bodies, stream: fields.stream })
    }

    fn is_tls(&self) -> bool {
        self.url.scheme_str() == Some("https")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_parsed_or_say_what_is_wrong() {
        let target: Target = "gw=http://127.0.0.1:80,pid=7,pid=8,key=sk-1,model=m".parse().unwrap();
        assert_eq!((target.name.as_str(), target.pids, target.key.as_deref()), ("gw", vec![7, 8], Some("sk-1")));
        for (text, part) in [
            ("http", "write NAME=URL"),
            ("gw=ftp://x", "must start with http://"),
            ("gw=https://x", "needs ca=FILE"),
            ("gw=http://x,pid=a", "pid"),
            ("gw=http://x,color=red", "color=red"),
        ] {
            let error = format!("{:#}", text.parse::<Target>().unwrap_err());
            assert!(error.contains(part), "{error}");
        }
    }
}
