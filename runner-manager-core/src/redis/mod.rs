//! The storage on Redis: [`Store`](crate::store::Store), [`TaskQueue`](crate::queue::TaskQueue) and
//! [`Budgets`](crate::budget::Budgets) for any number of replicas.
