//! How the program is linked. Only sizes depend on it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    // Rust links this target with its own lld, which knows both. Generic code of the document store is there many times alike (folded: 7 % less
    // code), and a position-independent program of this size has half a million relocations (15 MB, a hundredth of it packed; glibc 2.36 reads them).
    if is("TARGET", "x86_64-unknown-linux-gnu") && is("PROFILE", "release") {
        println!("cargo::rustc-link-arg-bins=-Wl,--icf=all");
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
