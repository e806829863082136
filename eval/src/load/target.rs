//! A target of a load run, as named on the command line.

use std::str::FromStr;

use anyhow::{Context, Result, bail};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{Request, Uri};

use super::driver::Prepared;
use super::workload::{HttpVersion, Workload};

#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    pub name: String,
    pub url: Uri,
    /// Its processes; empty if not known.
    pub pids: Vec<u32>,
    key: Option<String>,
    model: Option<String>,
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Target> {
        let (name, rest) =
            text.split_once('=').with_context(|| format!("{text:?}: write NAME=URL[,pid=N][,key=K][,model=M]"))?;
        let mut parts = rest.split(',');
        let url: Uri =
            parts.next().unwrap_or_default().parse().with_context(|| format!("{text:?}: the URL is not one"))?;
        if url.scheme_str() != Some("http") || url.host().is_none() {
            bail!("{text:?}: the URL must start with http:// and name a host");
        }
        let mut target = Target { name: name.to_string(), url, pids: Vec::new(), key: None, model: None };
        for part in parts {
            match part.split_once('=') {
                Some(("pid", pid)) => target.pids.push(pid.parse().with_context(|| format!("{text:?}: pid {pid:?}"))?),
                Some(("key", key)) => target.key = Some(key.to_string()),
                Some(("model", model)) => target.model = Some(model.to_string()),
                _ => bail!("{text:?}: {part:?} is none of pid=, key= and model="),
            }
        }
        Ok(target)
    }
}

impl Target {
    /// Everything one needs to send the workload here, built once.
    pub async fn prepare(&self, workload: &Workload) -> Result<Prepared> {
        let fields = &workload.fields;
        let authority = self.url.authority().map(|authority| authority.as_str()).unwrap_or_default();
        let host_and_port = if self.url.port().is_some() { authority.to_string() } else { format!("{authority}:80") };
        let address = tokio::net::lookup_host(&host_and_port).await.ok().and_then(|mut addresses| addresses.next());
        let address = address.with_context(|| format!("target {}: {host_and_port} has no address", self.name))?;
        let base = self.url.path().trim_end_matches('/');
        let uri: Uri = format!("http://{authority}{base}{}", fields.path)
            .parse()
            .with_context(|| format!("workload {}: field path {:?}", workload.name, fields.path))?;
        let mut head = Request::post(uri).body(())?;
        let headers = head.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if fields.http == HttpVersion::Http1 {
            headers.insert(HOST, HeaderValue::try_from(authority)?);
        }
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
        Ok(Prepared { address, http: fields.http, head, bodies: workload.bodies(model), stream: fields.stream })
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
            ("gw=https://x", "must start with http://"),
            ("gw=http://x,pid=a", "pid"),
            ("gw=http://x,color=red", "color=red"),
        ] {
            let error = format!("{:#}", text.parse::<Target>().unwrap_err());
            assert!(error.contains(part), "{error}");
        }
    }
}
