//! The pure modules of the gateway under their own paths, for the fuzz targets; see Cargo.toml for why they are mounted.
//! Which modules are pure, `src/tests/layering.rs` guarantees.

#![allow(dead_code, unused_imports, reason = "targets use parts of the modules")]

#[path = "../../src/base/mod.rs"]
pub mod base;
#[path = "../../src/config/mod.rs"]
pub mod config;
#[path = "../../src/llm/mod.rs"]
pub mod llm;
#[path = "../../src/rpc/mod.rs"]
pub mod rpc;

#[path = "../../src/plugins"]
pub mod plugins {
    pub mod rules;
}

#[path = "../../src/proxy"]
pub mod proxy {
    pub mod framing;
}

use config::{Compiled, FieldProblem, Folder, PluginCatalog, Scope, compile};

/// Reads files as a configuration folder and compiles what they say.
pub fn compile_files(files: &[(&str, &[u8])]) -> Compiled {
    let dir = tempfile::tempdir().expect("a folder for the objects");
    for (path, bytes) in files {
        let file = dir.path().join(path);
        std::fs::create_dir_all(file.parent().expect("a folder per kind")).expect("a folder per kind");
        std::fs::write(file, bytes).expect("an object is written");
    }
    let listing = Folder::new(dir.path()).read().expect("the folder is there");
    compile(&listing.objects, &Lenient)
}

/// Knows one plugin and takes any configuration of it.
struct Lenient;

impl PluginCatalog for Lenient {
    fn names(&self) -> Vec<&str> {
        vec!["key-auth"]
    }

    fn guards(&self, plugin: &str) -> bool {
        plugin == "key-auth"
    }

    fn lacks(&self, plugin: &str) -> bool {
        plugin == "ai-cache"
    }

    fn check(&self, _: &str, _: &Scope<'_>) -> Vec<FieldProblem> {
        Vec::new()
    }
}
