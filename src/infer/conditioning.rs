//! What is done to latents before the network sees them: truncation, and the choice of a class.

use crate::contract::Contract;
use crate::error::{Error, Result, nearest};
use crate::latent::{Latent, Truncation};
use crate::text::on_one_line;

/// What is done to the latents before the network sees them.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct Conditioning {
    /// Nearer to 0.
    pub truncation: Option<Truncation>,
    /// Images of one class only.
    pub class: Option<Class>,
}

impl Conditioning {
    /// Latents nearer to 0.
    pub fn truncation(self, truncation: Truncation) -> Self {
        Self { truncation: Some(truncation), ..self }
    }

    /// Images of one class only.
    pub fn class(self, class: Class) -> Self {
        Self { class: Some(class), ..self }
    }

    /// Does to latents what is to be done.
    pub(super) fn apply(&self, latent: Latent, rows: &mut [f32]) {
        if let Some(truncation) = self.truncation {
            truncation.apply(latent.distribution, rows);
        }
        if let Some(class) = self.class {
            class.apply(latent.size, rows);
        }
    }
}

/// A class of a conditional generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    number: usize,
    of: usize,
}

impl Class {
    /// Class `number`, from 0, of what the contract of a generator promises; `name` stands for it in messages.
    ///
    /// # Errors
    /// When the generator knows no classes, or not so many.
    pub fn new(number: usize, contract: Option<&Contract>, name: &str) -> Result<Self> {
        match contract.map_or(0, |contract| contract.classes) {
            0 => Err(Error::usage(format!("{name}: this generator knows no classes"), "Leave the class away.")),
            of if number >= of => {
                let what = format!("{name}: there is no class {number}");
                Err(Error::usage(what, format!("Its classes are 0 to {}.", of - 1)))
            }
            of => Ok(Self { number, of }),
        }
    }

    /// The class of that name, whose capitals do not matter where only one is called so, or else of that number; where classes are called
    /// by numbers, these names count.
    ///
    /// # Errors
    /// When the generator knows no classes, or none of that name or number.
    pub fn named(class: &str, contract: Option<&Contract>, name: &str) -> Result<Self> {
        let names = contract.map_or(&[][..], |contract| &contract.class_names);
        let mut alike = (0..names.len()).filter(|&number| names[number].eq_ignore_ascii_case(class));
        let one_alike = alike.next().filter(|_| alike.next().is_none());
        let called = names.iter().position(|name| name == class);
        if let Some(number) = called.or(one_alike).or_else(|| class.parse().ok()) {
            return Self::new(number, contract, name);
        }
        let Self { of, .. } = Self::new(0, contract, name)?;
        let numbers = format!("its classes are 0 to {}", of - 1);
        let hint = match nearest(class, names.iter().map(String::as_str)) {
            Some(near) => format!("Did you mean '{}'? {numbers}.", on_one_line(near)),
            None if names.is_empty() => format!("This generator has no names for them: {numbers}."),
            None => format!("They are called {}, and {numbers}.", listed(names)),
        };
        Err(Error::usage(format!("{name}: there is no class '{}'", on_one_line(class)), hint))
    }

    /// Its number, from 0.
    pub fn number(self) -> usize {
        self.number
    }

    /// Refuses a class of another generator.
    pub(super) fn check(self, contract: Option<&Contract>, name: &str) -> Result<()> {
        if Self::new(self.number, contract, name)? == self {
            Ok(())
        } else {
            Err(Error::usage(
                format!("{name}: class {} is one of another generator's {}", self.number, self.of),
                "Take the class from this generator's contract.",
            ))
        }
    }

    /// Exchanges the largest of the values that choose the class with that of this class: all orders of them are equally likely,
    /// so what comes out has the distribution that latents of this class have.
    pub(super) fn apply(self, size: usize, rows: &mut [f32]) {
        for row in rows.chunks_exact_mut(size) {
            let largest = (0..self.of).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(self.number);
            row.swap(largest, self.number);
        }
    }
}

/// Names in a line, the first of them if they are many.
fn listed(names: &[String]) -> String {
    const LISTED: usize = 10;
    let first: Vec<_> = names.iter().take(LISTED).map(|name| on_one_line(name)).collect();
    let more = if names.len() > LISTED { "…" } else { "" };
    format!("{}{more}", first.join(", "))
}
