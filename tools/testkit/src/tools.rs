//! Where the programs are that tests need: on the PATH, or in the project's own cache.
//!
//! `cargo xtask test` installs what is missing; a test that misses one fails and says so.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of the repository.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap().to_owned()
}

/// The folder for everything that is installed for this repository alone.
pub fn cache() -> PathBuf {
    repository().join(".cache")
}

/// The folder that cargo builds into, found from the running program's own place.
pub fn target_dir() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let profile = profile_dir(&program);
    profile.parent().unwrap().to_owned()
}

/// `target/debug` for both `target/debug/xtask` and `target/debug/deps/it-0123`.
fn profile_dir(program: &Path) -> PathBuf {
    let folder = program.parent().unwrap();
    if folder.ends_with("deps") || folder.ends_with("examples") {
        return folder.parent().unwrap().to_owned();
    }
    folder.to_owned()
}

/// The `paceline` binary that cargo built beside the running test.
pub fn paceline() -> PathBuf {
    if let Some(path) = std::env::var_os("CARGO_BIN_EXE_paceline") {
        return path.into();
    }
    let path = profile_dir(&std::env::current_exe().unwrap()).join("paceline");
    assert!(path.exists(), "{} is not built: run `cargo build -p paceline`", path.display());
    path
}

/// A command for a program of a Debian package: from the PATH, or from the unpacked
/// package in the cache with its libraries.
pub fn debian(program: &str) -> Command {
    find_debian(program).unwrap_or_else(|| {
        panic!("{program} is missing: `cargo xtask test` unpacks its Debian package into .cache/")
    })
}

/// The same, or `None` where it is not installed.
pub fn find_debian(program: &str) -> Option<Command> {
    if let Some(path) = on_path(program) {
        return Some(Command::new(path));
    }
    let root = cache().join("debian");
    let path = ["usr/sbin", "usr/bin"]
        .iter()
        .map(|folder| root.join(folder).join(program))
        .find(|path| path.exists())?;
    let mut command = Command::new(path);
    command.env("LD_LIBRARY_PATH", libraries(&root));
    command.env("VALGRIND_LIB", root.join("usr/libexec/valgrind"));
    Some(command)
}

/// A module of Debian's nginx, on the system or unpacked; `None` where it is not installed.
pub fn find_nginx_module(file: &str) -> Option<PathBuf> {
    let folders =
        [PathBuf::from("/usr/lib/nginx/modules"), cache().join("debian/usr/lib/nginx/modules")];
    folders.iter().map(|folder| folder.join(file)).find(|path| path.exists())
}

/// The interpreter of the virtual environment with the pinned SDKs.
pub fn python() -> PathBuf {
    installed(cache().join("python/bin/python"), "Python with the openai package")
}

/// The folder under `.cache/` with the environment of an agent framework.
pub fn framework_folder(name: &str) -> String {
    format!("frameworks/{name}")
}

/// The interpreter of the virtual environment with a pinned agent framework.
pub fn framework(name: &str) -> PathBuf {
    let path = cache().join(framework_folder(name)).join("bin/python");
    let command = "cargo xtask test --frameworks";
    assert!(path.exists(), "{name} is missing: `{command}` installs it into .cache/");
    path
}

/// The pinned proxy of LiteLLM, a contender of the benchmarks; `None` where it is not
/// installed.
pub fn find_litellm() -> Option<PathBuf> {
    Some(cache().join("litellm/bin/litellm")).filter(|path| path.exists())
}

/// The pinned Node.
pub fn node() -> PathBuf {
    let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    let path = format!("node/node_modules/node-linux-{machine}/bin/node");
    installed(cache().join(path), "the pinned Node")
}

fn installed(path: PathBuf, what: &str) -> PathBuf {
    assert!(path.exists(), "{what} is missing: `cargo xtask test` installs it into .cache/");
    path
}

/// The first executable of this name on the PATH; system folders count too, because
/// servers live in `/usr/sbin`, which an ordinary user's PATH leaves out.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.into_iter().map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// The library folders of an unpacked Debian package, for the dynamic linker.
fn libraries(root: &Path) -> OsString {
    let lib = root.join("usr/lib");
    let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
    std::env::join_paths([lib.join(triple), lib]).unwrap()
}
