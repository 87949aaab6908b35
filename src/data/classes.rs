//! The classes of a data set's images: a number each, and where it is known what the numbers are called.

use std::collections::{BTreeMap, BTreeSet};

use super::report::ClassCount;
use crate::text::{grouped, on_one_line};

/// The class of every image.
pub(super) struct Classes {
    pub labels: Vec<u8>,
    /// What the classes are called, by their numbers; empty where nobody says.
    pub names: Vec<String>,
}

/// What the classes of a data set that goes by a name are called.
pub(super) fn known_names(source: &str) -> Vec<String> {
    const GARMENTS: [&str; 10] =
        ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];
    match source {
        "synthetic" | "mnist" => (0..10).map(|digit| digit.to_string()).collect(),
        "fashion-mnist" => GARMENTS.map(String::from).into(),
        _ => Vec::new(),
    }
}

impl Classes {
    /// Labels, with the names that go with the source, if all of the labels have one.
    pub fn of_labels(labels: Vec<u8>, source: &str) -> Self {
        let mut names = known_names(source);
        if labels.iter().any(|label| usize::from(*label) >= names.len()) {
            names.clear();
        }
        Self { labels, names }
    }

    /// The classes that the folders of images make, by the images' paths inside; or why they make none.
    pub fn of_folders(paths: &[String]) -> Result<Self, String> {
        let folder_of = |path: &String| match path.rsplit_once('/') {
            Some((folder, _)) => Ok(folder.to_string()),
            None => Err(format!("the image {} is in no folder of a class", on_one_line(path))),
        };
        let folders: Vec<String> = paths.iter().map(folder_of).collect::<Result<_, _>>()?;
        let distinct: BTreeSet<&str> = folders.iter().map(String::as_str).collect();
        if distinct.len() > 256 {
            return Err(format!("its images are in {} folders", grouped(distinct.len())));
        }
        let names = without_common_parents(&distinct);
        let number: BTreeMap<&str, u8> = distinct.into_iter().zip(0..=u8::MAX).collect();
        let labels = folders.iter().filter_map(|folder| number.get(folder.as_str()).copied()).collect();
        Ok(Self { labels, names })
    }

    /// The classes of several sources, each with what it is called, as those of one: by their names, where these differ in the order
    /// of the names; by their numbers, where these have no names and are the same.
    pub fn of_all(parts: Vec<(String, Self)>) -> Result<Self, String> {
        let names = match parts.split_first() {
            None => return Err("there is no source".to_string()),
            Some(((_, first), others)) if others.iter().all(|(_, other)| other.names == first.names) => first.names.clone(),
            _ => {
                if let Some((source, _)) = parts.iter().find(|(_, part)| part.names.is_empty()) {
                    return Err(format!("the classes of {} have no names, and others have", on_one_line(source)));
                }
                let all: BTreeSet<&String> = parts.iter().flat_map(|(_, part)| &part.names).collect();
                all.into_iter().cloned().collect()
            }
        };
        if names.is_empty() {
            same_numbers(&parts)?;
        }
        if names.len() > 256 {
            return Err(format!("its sources have {} classes together", grouped(names.len())));
        }
        let number: BTreeMap<&String, u8> = names.iter().zip(0..=u8::MAX).collect();
        let mut labels = Vec::new();
        for (_, part) in &parts {
            let new = |label: &u8| part.names.get(usize::from(*label)).and_then(|name| number.get(name)).copied();
            labels.extend(part.labels.iter().map(|label| new(label).unwrap_or(*label)));
        }
        Ok(Self { labels, names })
    }

    /// How many images each class has.
    pub fn counts(&self) -> Vec<ClassCount> {
        let mut images = [0; 256];
        self.labels.iter().for_each(|label| images[usize::from(*label)] += 1);
        let count = |(number, images)| ClassCount { number, name: self.names.get(number).cloned(), images };
        images.into_iter().enumerate().filter(|(_, images)| *images > 0).map(count).collect()
    }
}

/// Refuses sources whose labels are not the same numbers: those of one would not mean what those of the other do.
fn same_numbers(parts: &[(String, Classes)]) -> Result<(), String> {
    let numbers = |part: &Classes| part.labels.iter().copied().collect::<BTreeSet<u8>>();
    let Some(((_, first), others)) = parts.split_first() else { return Ok(()) };
    let first = numbers(first);
    match others.iter().find(|(_, part)| numbers(part) != first) {
        Some((source, _)) => {
            Err(format!("the labels of {} are not the numbers that those before it have", on_one_line(source)))
        }
        None => Ok(()),
    }
}

/// Paths of folders without the folders that all of them lie in; each keeps its own name.
fn without_common_parents(folders: &BTreeSet<&str>) -> Vec<String> {
    let parts: Vec<Vec<&str>> = folders.iter().map(|folder| folder.split('/').collect()).collect();
    let Some(first) = parts.first() else { return Vec::new() };
    let own_parents = parts.iter().map(|parts| parts.len() - 1).min().unwrap_or(0);
    let common = |at: &usize| parts.iter().all(|parts| parts.get(*at) == first.get(*at));
    let shared = (0..own_parents).take_while(common).count();
    parts.iter().map(|parts| parts.iter().skip(shared).copied().collect::<Vec<_>>().join("/")).collect()
}
