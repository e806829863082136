//! Knowledge bases in object storage: a local S3 server (the Python package `moto`) that two processes share.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::harness::*;

/// An S3 server with one bucket, `docs`. It ends when its standard input is closed.
struct S3 {
    child: Child,
    endpoint: String,
}

const SERVER: &str = r#"
import sys, boto3
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
endpoint = "http://%s:%d" % server.get_host_and_port()
keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
boto3.client("s3", endpoint_url=endpoint, **keys).create_bucket(Bucket="docs")
print("ready " + endpoint, flush=True)
sys.stdin.read()
"#;

impl S3 {
    fn start() -> S3 {
        let python = python();
        let mut child = Command::new(&python)
            .args(["-c", SERVER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("ready ").map(str::to_owned));
        let endpoint =
            ready.unwrap_or_else(|| panic!("{python} has no moto; run `make test`, or set WEIRGATE_TEST_PYTHON"));
        S3 { child, endpoint }
    }

    /// The program with its knowledge bases in the bucket.
    fn weirgate(&self, folder: &Folder, secret: &str, args: &[&str]) -> (i32, String, String) {
        let settings = folder.dir.path().join("s3.toml");
        let mut file = std::fs::File::create(&settings).unwrap();
        writeln!(file, "[rag]\nstorage_url = \"s3://docs/bases\"\nstorage_endpoint = \"{}\"", self.endpoint).unwrap();
        writeln!(file, "storage_region = \"us-east-1\"").unwrap();
        let output = Command::new(binary())
            .arg("rag")
            .arg("--config")
            .arg(&settings)
            .arg("--data-dir")
            .arg(folder.data())
            .arg("--models-dir")
            .arg(folder.dir.path().join("no-models"))
            .args(args)
            .env("AWS_ACCESS_KEY_ID", "key")
            .env("AWS_SECRET_ACCESS_KEY", secret)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

#[test]
fn tables_in_object_storage_are_written_by_one_process_and_read_by_another() {
    let s3 = S3::start();
    let (here, there) = (Folder::new(), Folder::new());
    let document = here.dir.path().join("cats.md");
    std::fs::write(&document, "# Cats\n\nCats purr when they are content.\n").unwrap();
    let path = document.to_str().unwrap();
    let (code, said, complained) = s3.weirgate(&here, "secret", &["ingest", "pets", path, "--json"]);
    let report: Value = serde_json::from_str(&said).unwrap_or_default();
    assert_eq!((code, &report["added"]), (0, &json!(1)), "{said} {complained}");
    let (_, said, _) = s3.weirgate(&there, "secret", &["ingest", "pets", path, "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["unchanged"], 1);
    let (code, said, complained) = s3.weirgate(&there, "secret", &["search", "pets", "do cats purr", "--json"]);
    assert_eq!(code, 0, "{complained}");
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["results"][0]["document"], path);
    assert_eq!(s3.weirgate(&there, "secret", &["remove", "pets", "--all"]).0, 0);
    assert!(!s3.weirgate(&here, "secret", &["list"]).1.contains("pets"));
    assert!(!here.data().join("rag").exists(), "nothing is kept in the data folder");
}

#[test]
fn storage_that_does_not_answer_is_named() {
    let mut s3 = S3::start();
    let folder = Folder::new();
    s3.endpoint = "http://127.0.0.1:9".to_owned();
    let (code, _, complained) = s3.weirgate(&folder, "secret", &["list"]);
    assert_eq!(code, 1, "{complained}");
    assert!(complained.contains("s3://docs/bases"), "{complained}");
}
