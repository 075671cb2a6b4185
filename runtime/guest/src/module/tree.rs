//! The modules of one kernel, in a directory of this host or in memory as the files of a package.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::super::image::{decompress_file, Compression};
use super::{canonical, insists_on_signatures, ModuleError, MAX_MODULE};

/// Location of a module's bytes.
#[derive(Debug)]
enum Data {
    Path(PathBuf),
    Bytes(Vec<u8>),
}

#[derive(Debug)]
struct Entry {
    /// File name without the suffix of a compression, such as `virtio-rng.ko`.
    file: String,
    data: Data,
}

/// All modules of a kernel by their canonical names, and the names of those built in.
#[derive(Debug, Default)]
pub(crate) struct ModuleTree {
    modules: BTreeMap<String, Entry>,
    builtin: BTreeSet<String>,
    /// The kernel's configuration is known and allows unsigned modules.
    may_drop_signatures: bool,
}

impl ModuleTree {
    /// Reads `/lib/modules/RELEASE`.
    pub(crate) fn scan(dir: &Path) -> Result<ModuleTree, ModuleError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| ModuleError::Scan { path, source }
        };
        let mut tree = ModuleTree::default();
        match fs::read_to_string(dir.join("modules.builtin")) {
            Ok(list) => tree.add_builtin(&list),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&dir.join("modules.builtin"))(error)),
        }
        let mut pending = vec![dir.to_owned()];
        while let Some(dir) = pending.pop() {
            for entry in fs::read_dir(&dir).map_err(failed(&dir))? {
                let entry = entry.map_err(failed(&dir))?;
                let kind = entry.file_type().map_err(failed(&entry.path()))?;
                // Do not follow links: `build` and `source` lead out of the tree.
                if kind.is_dir() {
                    pending.push(entry.path());
                } else if let Some(name) = entry.file_name().to_str().filter(|_| kind.is_file()) {
                    tree.add(name, Data::Path(entry.path()));
                }
            }
        }
        Ok(tree)
    }

    /// Adds a file of a package; returns whether it is a module.
    pub(crate) fn add_bytes(&mut self, file_name: &str, bytes: Vec<u8>) -> bool {
        self.add(file_name, Data::Bytes(bytes))
    }

    /// Adds the text of a `modules.builtin`.
    pub(crate) fn add_builtin(&mut self, list: &str) {
        self.builtin
            .extend(list.lines().filter_map(|line| module_file(line.rsplit('/').next()?)).map(|(name, _)| name));
    }

    fn add(&mut self, file_name: &str, data: Data) -> bool {
        let Some((name, file)) = module_file(file_name) else { return false };
        self.modules.insert(name, Entry { file, data });
        true
    }

    /// Adds the kernel's `.config`.
    pub(crate) fn add_config(&mut self, dot_config: &str) {
        self.may_drop_signatures = !insists_on_signatures(dot_config);
    }

    pub(super) fn may_drop_signatures(&self) -> bool {
        self.may_drop_signatures
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.modules.is_empty()
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.modules.contains_key(name)
    }

    pub(super) fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains(name)
    }

    /// The module's file name and its unpacked bytes.
    pub(super) fn read(&self, name: &str) -> Result<Option<(String, Vec<u8>)>, ModuleError> {
        let Some(entry) = self.modules.get(name) else { return Ok(None) };
        let packed = match &entry.data {
            Data::Bytes(bytes) => bytes.clone(),
            Data::Path(path) => fs::read(path).map_err(|source| ModuleError::Scan { path: path.clone(), source })?,
        };
        let unpack = |bytes: &[u8]| decompress_file(Compression::detect(bytes)?, bytes, MAX_MODULE);
        let bytes = unpack(&packed).map_err(|source| ModuleError::Unpack { module: entry.file.clone(), source })?;
        Ok(Some((entry.file.clone(), bytes)))
    }
}

/// `virtio-rng.ko.xz` is the module `virtio_rng` in the file `virtio-rng.ko`.
fn module_file(file_name: &str) -> Option<(String, String)> {
    let plain = [".xz", ".zst", ".gz"].iter().find_map(|suffix| file_name.strip_suffix(suffix)).unwrap_or(file_name);
    let name = plain.strip_suffix(".ko").filter(|name| !name.is_empty())?;
    Some((canonical(name), plain.to_owned()))
}
