//! A gateway process, mock upstreams, and a small HTTP client.

mod client;
mod upstream;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use tempfile::TempDir;

pub use self::client::{Answer, request, send, send_h2c};
pub use self::upstream::{Seen, Upstream, answer, completion, events, ok, question, sse};

/// Longest wait for anything in these tests; only ever reached by a failure.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A configuration folder being written.
pub struct Folder {
    pub dir: TempDir,
}

impl Folder {
    pub fn new() -> Folder {
        let folder = Folder { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir_all(folder.config()).unwrap();
        folder
    }

    pub fn config(&self) -> PathBuf {
        self.dir.path().join("config")
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A folder for models that has none.
    pub fn no_models(&self) -> PathBuf {
        self.dir.path().join("no-models")
    }

    pub fn access_log(&self) -> PathBuf {
        self.dir.path().join("access.log")
    }

    /// Writes an object as Higress does: temporary file, then rename.
    pub fn write(&self, path: &str, object: &Value) -> &Folder {
        self.write_text(path, &object.to_string())
    }

    pub fn write_text(&self, path: &str, text: &str) -> &Folder {
        let file = self.config().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let temporary = file.with_extension("yaml.tmp");
        std::fs::write(&temporary, text).unwrap();
        std::fs::rename(&temporary, &file).unwrap();
        self
    }

    /// Registers static services `<name>.static` at the addresses.
    pub fn services(&self, services: &[(&str, SocketAddr)]) -> &Folder {
        let registries: Vec<Value> = services
            .iter()
            .map(|(name, address)| json!({"name": name, "type": "static", "domain": address.to_string(), "port": 80}))
            .collect();
        let object = json!({"apiVersion": "networking.higress.io/v1", "kind": "McpBridge", "metadata": {"name": "default"},
            "spec": {"registries": registries}});
        self.write("mcpbridges/default.yaml", &object)
    }

    /// A route for a path prefix on every host.
    pub fn route(&self, name: &str, prefix: &str, service: &str) -> &Folder {
        self.route_with(name, prefix, service, &json!({}))
    }

    pub fn route_with(&self, name: &str, prefix: &str, service: &str, annotations: &Value) -> &Folder {
        let mut all = json!({"higress.io/destination": service});
        all.as_object_mut().unwrap().extend(annotations.as_object().unwrap().clone());
        let backend =
            json!({"resource": {"apiGroup": "networking.higress.io", "kind": "McpBridge", "name": "default"}});
        let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {"name": name, "annotations": all},
            "spec": {"rules": [{"http": {"paths": [{"path": prefix, "pathType": "Prefix", "backend": backend}]}}]}});
        self.write(&format!("ingresses/{name}.yaml"), &object)
    }

    pub fn plugin(&self, name: &str, default_config: &Value, rules: &Value) -> &Folder {
        let object = json!({"apiVersion": "extensions.higress.io/v1alpha1", "kind": "WasmPlugin",
            "metadata": {"name": format!("{name}.internal")},
            "spec": {"phase": phase(name), "priority": priority(name), "failStrategy": "FAIL_CLOSE",
                "defaultConfig": default_config, "matchRules": rules}});
        self.write(&format!("wasmplugins/{name}.internal.yaml"), &object)
    }

    /// One OpenAI-shaped provider behind a service.
    pub fn provider(&self, service: &str, provider: &Value) -> &Folder {
        let mut own = json!({"id": "p", "type": "openai", "apiTokens": ["sk-provider"], "openaiCustomUrl": "http://127.0.0.1/v1"});
        own.as_object_mut().unwrap().extend(provider.as_object().unwrap().clone());
        self.plugin(
            "ai-proxy",
            &json!({"providers": [own]}),
            &json!([{"service": [service], "config": {"activeProviderId": "p"}}]),
        )
    }
}

fn spec(name: &str) -> &'static weirgate::plugins::registry::PluginSpec {
    weirgate::plugins::registry::find(name).unwrap()
}

fn priority(name: &str) -> i32 {
    spec(name).priority
}

fn phase(name: &str) -> Value {
    match spec(name).phase {
        weirgate::config::model::Phase::Unspecified => json!("UNSPECIFIED_PHASE"),
        phase => serde_json::to_value(phase).unwrap(),
    }
}

/// A running gateway; killed when dropped.
pub struct Gateway {
    pub child: Child,
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub admin: SocketAddr,
    pub folder: Folder,
}

pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_weirgate")
}

/// A command that runs the program, with the arguments to serve a folder on free ports; `toml` becomes its config.toml.
pub fn serving(mut command: Command, folder: &Folder, toml: &str) -> Command {
    let file = folder.dir.path().join("config.toml");
    std::fs::write(&file, toml).unwrap();
    command
        .args(["serve", "--http-port", "0", "--https-port", "0", "--admin-port", "0", "--bind", "127.0.0.1"])
        .arg("--config")
        .arg(&file)
        .arg("--config-dir")
        .arg(folder.config())
        .arg("--data-dir")
        .arg(folder.data())
        .stdout(Stdio::piped());
    command
}

impl Gateway {
    pub fn start(folder: Folder) -> Gateway {
        Gateway::start_with(folder, "")
    }

    /// `settings` is appended to a config.toml made for tests.
    pub fn start_with(folder: Folder, settings: &str) -> Gateway {
        Gateway::start_with_first(folder, "", settings)
    }

    fn start_with_first(folder: Folder, first: &str, settings: &str) -> Gateway {
        let log = folder.access_log();
        let log = log.display().to_string();
        let toml = format!("{first}[telemetry]\naccess_log = {log:?}\nlog_level = \"warn\"\n{settings}");
        let child = serving(Command::new(binary()), &folder, &toml).spawn().unwrap();
        Gateway::of(child, folder)
    }

    /// Without the models that this machine may have.
    pub fn start_without_models(folder: Folder) -> Gateway {
        let settings = format!("models_dir = {:?}\n", folder.no_models());
        Gateway::start_with_first(folder, &settings, "")
    }

    /// A `serve` just started, with its standard output piped, once it says where it listens.
    pub fn of(mut child: Child, folder: Folder) -> Gateway {
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next().expect("the gateway says where it listens").unwrap();
        let ports: Value = serde_json::from_str(line.strip_prefix("listening ").unwrap()).unwrap();
        let address = |key: &str| ports[key].as_str().unwrap().parse().unwrap();
        Gateway { http: address("http"), https: address("https"), admin: address("admin"), child, folder }
    }

    pub async fn get(&self, path: &str) -> Answer {
        send(self.http, "GET", path, &[], Bytes::new()).await
    }

    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let mut all = vec![("content-type", "application/json")];
        all.extend_from_slice(headers);
        send(self.http, "POST", path, &all, body.into()).await
    }

    pub async fn chat(&self, body: &Value) -> Answer {
        self.post("/v1/chat/completions", &[], body.to_string()).await
    }

    pub fn token(&self) -> String {
        std::fs::read_to_string(self.folder.data().join("admin.token")).unwrap().trim().to_owned()
    }

    pub async fn admin(&self, method: &str, path: &str) -> Answer {
        let bearer = format!("Bearer {}", self.token());
        send(self.admin, method, path, &[("authorization", &bearer)], Bytes::new()).await
    }

    pub async fn metrics(&self) -> String {
        send(self.admin, "GET", "/metrics", &[], Bytes::new()).await.text()
    }

    /// Access log entries so far, once at least `n` are there, in the order of the requests: a line is written after its answer, so
    /// the next request's may stand before it.
    pub fn access_log(&self, n: usize) -> Vec<Value> {
        let path = self.folder.access_log();
        eventually("access log lines", || {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let mut entries: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            // Ids ascend with time. What was refused before it was parsed has none.
            if entries.iter().all(|entry| entry["request_id"].as_str().is_some_and(|id| !id.is_empty())) {
                entries.sort_by_key(|entry| entry["request_id"].to_string());
            }
            (entries.len() >= n).then_some(entries)
        })
    }

    /// Runs the command line on this gateway's data and configuration; returns exit code, stdout and stderr.
    pub fn cli(&self, args: &[&str]) -> (i32, String, String) {
        run_cli(args, &self.folder)
    }

    /// Stops the process and keeps its folder, for the next one.
    pub fn into_folder(mut self) -> Folder {
        let _ = self.child.kill();
        let _ = self.child.wait();
        std::mem::replace(&mut self.folder, Folder { dir: tempfile::tempdir().unwrap() })
    }

    pub fn terminate(&self) {
        self.signal("-TERM");
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a subcommand with the folder's places. `args[0]` is the subcommand.
pub fn run_cli(args: &[&str], folder: &Folder) -> (i32, String, String) {
    let output = Command::new(binary())
        .arg(args[0])
        .arg("--config-dir")
        .arg(folder.config())
        .arg("--data-dir")
        .arg(folder.data())
        .args(&args[1..])
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// An address where nobody listens. The port stays taken as long as this lives, so that no other test gets it.
pub struct Nobody {
    pub address: SocketAddr,
    _socket: socket2::Socket,
}

impl Nobody {
    pub fn new() -> Nobody {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        Nobody { address, _socket: socket }
    }
}

/// The Python that has the clients of the tests; `make test` makes it.
pub fn python() -> String {
    let made = concat!(env!("CARGO_MANIFEST_DIR"), "/.venv/bin/python").to_owned();
    std::env::var("WEIRGATE_TEST_PYTHON").unwrap_or(made)
}

/// Runs a script of this folder, which says "all good" at its end.
pub fn run_script(script: &str, args: &[String]) {
    let python = python();
    let output = Command::new(&python)
        .arg(format!("{}/src/tests/{script}", env!("CARGO_MANIFEST_DIR")))
        .args(args)
        .output()
        .unwrap_or_else(|error| {
            panic!("{python}: {error}; run `make test`, which installs the SDK, or set WEIRGATE_TEST_PYTHON")
        });
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains("all good"), "{}", text(&output.stdout));
}

/// Asks until there is an answer.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::yield_now();
    }
}

/// Asks, with requests, until there is an answer.
pub async fn eventually_async<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::task::yield_now().await;
    }
}
