//! Which shard a process is, by what its launcher has put into the environment: Slurm, Kubernetes or torchrun.
//!
//! | launcher | which | of how many |
//! |---|---|---|
//! | Slurm, an array of jobs | `SLURM_ARRAY_TASK_ID` from `SLURM_ARRAY_TASK_MIN` in steps of `SLURM_ARRAY_TASK_STEP` | `SLURM_ARRAY_TASK_COUNT` |
//! | Slurm, the tasks of `srun` | `SLURM_PROCID` | `SLURM_NTASKS` |
//! | Kubernetes, an indexed job | `JOB_COMPLETION_INDEX` | `JOB_COMPLETIONS`, which the job's manifest passes: Kubernetes does not tell it |
//! | torchrun | `RANK` | `WORLD_SIZE` |
//!
//! A variable that is empty counts as not set. An array's tasks that start several processes each (`srun` or torchrun within an array) are combined: each
//! process is a shard of its own. Where torchrun runs within `srun` or an indexed job it is torchrun that tells, if its
//! `GROUP_WORLD_SIZE` says that its agents are these tasks, or both say the same. Anything else that does not fit is an error.

use std::fmt::Display;

use super::selection::Shard;
use crate::error::{Error, Result};
use crate::text::on_one_line;

/// The shard that a process is to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// Which.
    pub shard: Shard,
    /// What says so, with the variables and their values: `a Slurm array (SLURM_ARRAY_TASK_ID=3 of 0 to 7)`.
    pub by: String,
}

impl Shard {
    /// The shard that the launcher of this process has assigned to it, by the variables that `get` gives: `std::env::var(name).ok()`, where it is not a
    /// test. Slurm's array jobs and the tasks of `srun`, Kubernetes' indexed jobs and torchrun are known, by
    ///
    /// - `SLURM_ARRAY_TASK_ID`, `SLURM_ARRAY_TASK_MIN`, `SLURM_ARRAY_TASK_MAX`, `SLURM_ARRAY_TASK_STEP`, `SLURM_ARRAY_TASK_COUNT`;
    /// - `SLURM_PROCID`, `SLURM_NTASKS`;
    /// - `JOB_COMPLETION_INDEX` (from 0), `JOB_COMPLETIONS` (Kubernetes does not set it: the job's manifest is to pass it);
    /// - `RANK`, `WORLD_SIZE`.
    ///
    /// Processes that `srun` or torchrun start within an array are shards of their own, each task of the array having as many.
    ///
    /// ```
    /// use ganforge::infer::Shard;
    ///
    /// let variables = [("JOB_COMPLETION_INDEX", "2"), ("JOB_COMPLETIONS", "8")];
    /// let get = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string());
    /// assert_eq!(Shard::assigned(get)?.shard.to_string(), "3/8");
    /// # Ok::<(), ganforge::error::Error>(())
    /// ```
    ///
    /// # Errors
    /// When none of them is set, some of a launcher's are missing, or they contradict each other or themselves.
    pub fn assigned(get: impl Fn(&str) -> Option<String>) -> Result<Assigned> {
        let environment = Environment(&|name| get(name).filter(|value| !value.is_empty()));
        let array = environment.array()?;
        let processes = environment.processes(array.as_ref())?;
        let (index, of, by) = match (array, processes) {
            (None, None) => return Err(nothing()),
            (Some(it), None) | (None, Some(it)) => (it.index, it.of, it.told),
            (Some(array), Some(inner)) => {
                let of =
                    array.of.checked_mul(inner.of).ok_or_else(|| impossible(format!("{} of {}", inner.told, array.told)))?;
                // Below `of`, as each index is below its number.
                (array.index * inner.of + inner.index, of, format!("{}, and in it {}", array.told, inner.told))
            }
        };
        let shard = Self::of_index(index, of).ok_or_else(|| impossible(by.clone()))?;
        Ok(Assigned { shard, by })
    }
}

/// One of a launcher's processes.
struct Process {
    /// Which, from 0.
    index: u64,
    of: u64,
    /// What says so.
    told: String,
}

impl Process {
    /// From a variable with the index, counted from 0, and one with their number.
    fn new(launcher: &str, (name, index): (&str, u64), (number, of): (&str, u64)) -> Result<Self> {
        let told = format!("{launcher} ({name}={index}, {number}={of})");
        if index < of { Ok(Self { index, of, told }) } else { Err(impossible(told)) }
    }

    fn is_same(&self, other: &Self) -> bool {
        (self.index, self.of) == (other.index, other.of)
    }
}

/// Variables, those that are empty left out.
struct Environment<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Environment<'_> {
    fn has(&self, name: &str) -> bool {
        (self.0)(name).is_some()
    }

    fn number(&self, name: &str) -> Result<Option<u64>> {
        let Some(text) = (self.0)(name) else { return Ok(None) };
        let number = text.trim().parse().map(Some);
        number.map_err(|_| wrong(format!("{name} is '{}', which is no whole number from 0", on_one_line(&text))))
    }

    /// A variable without which `because` says nothing.
    fn needed(&self, name: &str, because: &str) -> Result<u64> {
        self.number(name)?.ok_or_else(|| incomplete(because, name))
    }

    /// The task of a Slurm array.
    fn array(&self) -> Result<Option<Process>> {
        const ID: &str = "SLURM_ARRAY_TASK_ID";
        const RANGE: [&str; 4] =
            ["SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_STEP", "SLURM_ARRAY_TASK_COUNT"];
        if !self.has(ID) {
            return match RANGE.into_iter().find(|name| self.has(name)) {
                Some(name) => Err(incomplete(name, ID)),
                None => Ok(None),
            };
        }
        let id = self.needed(ID, ID)?;
        let [min, max, step, count] = RANGE.map(|name| self.number(name));
        // Slurm sets all of them. The step and the number follow from the others where somebody else has not.
        let (min, max) = match (min?, max?) {
            (Some(min), Some(max)) => (min, max),
            (None, _) => return Err(incomplete(ID, RANGE[0])),
            (_, None) => return Err(incomplete(ID, RANGE[1])),
        };
        let (step, count) = (step?.unwrap_or(1), count?);
        let told = format!(
            "a Slurm array ({ID}={id} of {min} to {max}{})",
            if step == 1 { String::new() } else { format!(" by {step}") }
        );
        if step == 0 || !(min..=max).contains(&id) || !(id - min).is_multiple_of(step) {
            return Err(impossible(told));
        }
        let of = ((max - min) / step).checked_add(1).ok_or_else(|| impossible(told.clone()))?;
        if let Some(count) = count.filter(|count| *count != of) {
            return Err(wrong(format!(
                "SLURM_ARRAY_TASK_COUNT is {count}, but {min} to {max} in steps of {step} are {of} tasks: which of them are left out is not told"
            )));
        }
        if of == 1 && id > 1 {
            return Err(wrong(format!(
                "the Slurm array has one task only, {ID}={id}: which of how many shards that one is when it is run again is not told"
            )));
        }
        Ok(Some(Process { index: (id - min) / step, of, told }))
    }

    /// The process of a job: one of `srun`'s, an indexed job's or torchrun's. In the task of an array there need be none.
    fn processes(&self, array: Option<&Process>) -> Result<Option<Process>> {
        let (torchrun, pod) = (self.torchrun()?, self.kubernetes()?);
        if let (Some(array), Some(pod)) = (array, &pod) {
            return Err(contradiction(array, pod));
        }
        let tasks = self.tasks(array.is_some() || torchrun.is_some())?;
        let agent = match (tasks, pod) {
            (Some(tasks), Some(pod)) if !tasks.is_same(&pod) => return Err(contradiction(&tasks, &pod)),
            (tasks, pod) => tasks.or(pod),
        };
        match (agent, torchrun) {
            (Some(agent), Some(worker)) => {
                let agents = self.number("GROUP_WORLD_SIZE")?;
                let is_inside = agent.of == 1 || agents == Some(agent.of);
                if is_inside || agent.is_same(&worker) { Ok(Some(worker)) } else { Err(contradiction(&agent, &worker)) }
            }
            (agent, worker) => Ok(worker.or(agent)),
        }
    }

    /// A task of `srun`. The script of a job is number 0 without having been started by it, which counts for nothing where something else tells.
    fn tasks(&self, else_told: bool) -> Result<Option<Process>> {
        const NAME: &str = "SLURM_PROCID";
        const OF: &str = "SLURM_NTASKS";
        let (index, of) = (self.number(NAME)?, self.number(OF)?);
        // The script of a job with several tasks is number 0 of them, too, without being one: srun tells of its step.
        let in_step = self.number("SLURM_STEP_NUM_TASKS")?.is_some();
        if !in_step && index == Some(0) && of.is_some_and(|of| of > 1) {
            return match else_told {
                true => Ok(None),
                false => Err(wrong(format!(
                    "{NAME} is 0 and {OF} {}, but this is the job's script and no task: let srun start it",
                    of.unwrap_or(0)
                ))),
            };
        }
        let of = match (of, self.number("SLURM_STEP_NUM_TASKS")?) {
            (Some(of), Some(step)) if of != step => {
                return Err(wrong(format!("{OF} is {of}, but SLURM_STEP_NUM_TASKS is {step}")));
            }
            (of, step) => of.or(step),
        };
        match (index, of) {
            (None, None) => Ok(None),
            (Some(0), None) | (None, Some(1)) if else_told => Ok(None),
            (Some(index), Some(of)) => Process::new("Slurm's tasks", (NAME, index), (OF, of)).map(Some),
            (Some(_), None) => Err(incomplete(NAME, OF)),
            (None, Some(_)) => Err(incomplete(OF, NAME)),
        }
    }

    fn kubernetes(&self) -> Result<Option<Process>> {
        self.pair("a Kubernetes job", "JOB_COMPLETION_INDEX", "JOB_COMPLETIONS")
    }

    fn torchrun(&self) -> Result<Option<Process>> {
        self.pair("torchrun", "RANK", "WORLD_SIZE")
    }

    /// What two variables tell together.
    fn pair(&self, launcher: &str, name: &str, number: &str) -> Result<Option<Process>> {
        match (self.number(name)?, self.number(number)?) {
            (None, None) => Ok(None),
            (Some(index), Some(of)) => Process::new(launcher, (name, index), (number, of)).map(Some),
            (Some(_), None) => Err(incomplete(name, number)),
            (None, Some(_)) => Err(incomplete(number, name)),
        }
    }
}

fn wrong(what: impl Display) -> Error {
    Error::usage(format!("`Shard::assigned`: {what}"), "Say which shard it is: `Plan::shard` I/N, the I-th of N.")
}

fn incomplete(there: &str, missing: &str) -> Error {
    let how = match missing {
        "JOB_COMPLETIONS" => {
            " (Kubernetes does not: pass it in the job's manifest, with the number that stands under completions)"
        }
        "SLURM_PROCID" => " (srun does, for each of the tasks that it starts)",
        _ => "",
    };
    wrong(format!("{there} is set, but {missing} is not{how}"))
}

fn impossible(told: String) -> Error {
    wrong(format!("{told} cannot be"))
}

fn contradiction(one: &Process, other: &Process) -> Error {
    wrong(format!("{} and {} contradict each other", one.told, other.told))
}

fn nothing() -> Error {
    Error::usage(
        "`Shard::assigned`: the environment tells no shard: neither SLURM_ARRAY_TASK_ID (a Slurm array), SLURM_PROCID and SLURM_NTASKS (srun), \
         JOB_COMPLETION_INDEX and JOB_COMPLETIONS (an indexed job of Kubernetes) nor RANK and WORLD_SIZE (torchrun) are set",
        "Say which shard it is: `Plan::shard` I/N, the I-th of N.",
    )
}
