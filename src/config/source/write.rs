//! Writing the folder: a rollback does, on request, and so does a certificate that was issued. Everything is laid ready first
//! and then renamed, so that a reader that waits for the folder to be quiet sees the old files or the new ones.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown, fchown};
use std::path::{Path, PathBuf};

/// What shall become of a file, named relative to the folder: new content, or none.
pub type FileContent = (PathBuf, Option<Vec<u8>>);

/// What shall become of files below `root`. Each gets the owner and the permissions of the file of that name below `like`, or else those that its
/// folder lets it have: a file that root writes must still be read by the gateway.
/// Returns after everything is in place.
///
/// # Errors
/// Says which file; nothing has changed if it was while laying ready.
pub fn replace(root: &Path, files: &[FileContent], like: &Path) -> Result<(), (PathBuf, io::Error)> {
    let mut ready = Vec::new();
    for (file, content) in files {
        let Some(content) = content else { continue };
        let target = root.join(file);
        let temporary = temporary(&target);
        let laid = make_folders(root, file, like)
            .and_then(|()| lay_ready(&temporary, content, &Access::of(&like.join(file), file)));
        if let Err(error) = laid {
            // The files that are ready are of no use alone.
            for (temporary, _) in &ready {
                let _ = fs::remove_file(temporary);
            }
            return Err((file.clone(), error));
        }
        ready.push((temporary, target));
    }
    for (temporary, target) in &ready {
        fs::rename(temporary, target).map_err(|error| (target.clone(), error))?;
    }
    for (file, _) in files.iter().filter(|(_, content)| content.is_none()) {
        match fs::remove_file(root.join(file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err((file.clone(), error)),
            _ => {}
        }
    }
    Ok(())
}

/// Whether [`replace`] could write a file below `root`; what it takes to know is done and undone.
///
/// # Errors
/// Why it could not.
pub fn try_to_write(root: &Path, file: &Path) -> io::Result<()> {
    let temporary = temporary(&root.join(file));
    make_folders(root, file, root)?;
    lay_ready(&temporary, b"", &Access::of(&root.join(file), file))?;
    fs::remove_file(temporary)
}

/// Whose a file is, and who may read it.
struct Access {
    mode: u32,
    owner: Option<(u32, u32)>,
}

impl Access {
    fn of(path: &Path, name: &Path) -> Access {
        let owner = |of: &fs::Metadata| Some((of.uid(), of.gid()));
        let own = fs::metadata(path).ok();
        let folder = nearest(path.parent().unwrap_or(path));
        let of_folder = folder.as_ref().map_or(0o755, fs::Metadata::mode);
        let mode = match &own {
            Some(own) => own.mode() & 0o777,
            // Secrets are nobody else's business than theirs whose folder it is.
            None if name.starts_with("secrets") && of_folder & 0o007 != 0 => 0o600,
            None if name.starts_with("secrets") => of_folder & 0o640,
            None => of_folder & 0o666,
        };
        Access { mode, owner: own.or(folder).as_ref().and_then(owner) }
    }
}

/// Of a folder, or else of the nearest that there is above it.
fn nearest(folder: &Path) -> Option<fs::Metadata> {
    folder.ancestors().find_map(|folder| fs::metadata(folder).ok())
}

/// The folders that a file below `root` lies in; those that are made are as open as theirs below `like`.
fn make_folders(root: &Path, file: &Path, like: &Path) -> io::Result<()> {
    if let Some(above) = root.parent() {
        fs::create_dir_all(above)?;
    }
    let mut names: Vec<&Path> = file.ancestors().skip(1).collect();
    names.reverse();
    for name in names {
        let (folder, model) = (root.join(name), nearest(&like.join(name)));
        match (fs::create_dir(&folder), model) {
            (Ok(()), Some(model)) => {
                // Nobody but root gives folders away.
                let _ = chown(&folder, Some(model.uid()), Some(model.gid()));
                fs::set_permissions(&folder, fs::Permissions::from_mode(model.mode() & 0o777))?;
            }
            (Err(error), _) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Higress' own name for a file that is not finished; readers pass over it.
fn temporary(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

fn lay_ready(temporary: &Path, content: &[u8], access: &Access) -> io::Result<()> {
    // What a crash left there could be of another mode.
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().create_new(true).write(true).mode(access.mode).open(temporary)?;
    let own = file.metadata()?;
    if let Some((user, group)) = access.owner.filter(|owner| *owner != (own.uid(), own.gid())) {
        // Nobody but root gives files away; the group may be one of the writer's own.
        let _ = fchown(&file, Some(user), Some(group)).or_else(|_| fchown(&file, None, Some(group)));
    }
    // Opened with less than that by the mask of this process, which is not the gateway's.
    file.set_permissions(fs::Permissions::from_mode(access.mode))?;
    io::Write::write_all(&mut file, content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_change_and_go() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir(path("a")).unwrap();
        fs::write(path("a/old.yaml"), "old").unwrap();
        fs::write(path("a/gone.yaml"), "gone").unwrap();
        let files = [
            (PathBuf::from("a/old.yaml"), Some(b"new".to_vec())),
            (PathBuf::from("b/deep/came.yaml"), Some(b"came".to_vec())),
            (PathBuf::from("a/gone.yaml"), None),
            (PathBuf::from("a/never.yaml"), None),
        ];
        // Keys of providers stand in files of any kind.
        fs::set_permissions(path("a/old.yaml"), fs::Permissions::from_mode(0o600)).unwrap();
        replace(root.path(), &files, root.path()).unwrap();
        assert_eq!(fs::read_to_string(path("a/old.yaml")).unwrap(), "new");
        let mode = |name: &str| fs::metadata(path(name)).unwrap().mode() & 0o777;
        assert_eq!((mode("a/old.yaml"), mode("b/deep/came.yaml")), (0o600, 0o644));
        assert_eq!(fs::read_to_string(path("b/deep/came.yaml")).unwrap(), "came");
        assert_eq!(fs::read_dir(path("a")).unwrap().count(), 1, "neither the file that went nor a temporary one");
    }

    #[test]
    fn who_may_read_the_folder_may_read_what_is_written_into_it() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir(path("secrets")).unwrap();
        fs::write(path("secrets/kept.yaml"), "old").unwrap();
        fs::set_permissions(path("secrets/kept.yaml"), fs::Permissions::from_mode(0o640)).unwrap();
        let content = || Some(b"new".to_vec());
        let mode = |name: &str| fs::metadata(path(name)).unwrap().mode() & 0o777;
        fs::set_permissions(path("secrets"), fs::Permissions::from_mode(0o755)).unwrap();
        replace(root.path(), &[("secrets/own.yaml".into(), content())], root.path()).unwrap();
        fs::set_permissions(path("secrets"), fs::Permissions::from_mode(0o750)).unwrap();
        let files = ["secrets/kept.yaml", "secrets/shared.yaml"].map(|name| (PathBuf::from(name), content()));
        replace(root.path(), &files, root.path()).unwrap();
        assert_eq!(["secrets/kept.yaml", "secrets/own.yaml", "secrets/shared.yaml"].map(mode), [0o640, 0o600, 0o640]);
        // A copied folder may be open to all, and the gateway another user than who writes.
        fs::set_permissions(path("secrets"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(path("secrets/kept.yaml"), fs::Permissions::from_mode(0o644)).unwrap();
        replace(root.path(), &[("secrets/kept.yaml".into(), content())], root.path()).unwrap();
        assert_eq!(mode("secrets/kept.yaml"), 0o644);
    }

    #[test]
    fn a_copy_is_as_closed_as_what_it_copies() {
        let root = tempfile::tempdir().unwrap();
        let (old, new) = (root.path().join("old"), root.path().join("deep/new"));
        fs::create_dir_all(old.join("wasmplugins")).unwrap();
        fs::set_permissions(&old, fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(old.join("wasmplugins"), fs::Permissions::from_mode(0o750)).unwrap();
        let files = ["wasmplugins/a.yaml", "ingresses/b.yaml"].map(|name| (PathBuf::from(name), Some(b"new".to_vec())));
        replace(&new, &files, &old).unwrap();
        let mode = |name: &str| fs::metadata(new.join(name)).unwrap().mode() & 0o777;
        assert_eq!(["", "wasmplugins", "ingresses"].map(mode), [0o700, 0o750, 0o700]);
    }

    #[test]
    fn a_failure_while_laying_ready_changes_nothing() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a.yaml"), "old").unwrap();
        fs::write(root.path().join("file"), "in the way").unwrap();
        let files =
            [(PathBuf::from("a.yaml"), Some(b"new".to_vec())), (PathBuf::from("file/b.yaml"), Some(b"new".to_vec()))];
        let (file, _) = replace(root.path(), &files, root.path()).unwrap_err();
        assert_eq!(file, PathBuf::from("file/b.yaml"));
        assert_eq!(fs::read_to_string(root.path().join("a.yaml")).unwrap(), "old");
        assert!(!root.path().join("a.yaml.tmp").exists());
    }
}
