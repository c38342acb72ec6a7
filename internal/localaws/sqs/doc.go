// Package sqs is Amazon SQS's standard queues in memory, behind the JSON and
// the query protocol.
//
// It models what a consumer's correctness depends on: long polls that wake on
// arrival, visibility timeouts and their twelve-hour limit, receive counts,
// redrive to dead-letter queues and back, delays, batches with failures per
// entry, size limits, and queue policies. FIFO queues are not modelled and
// refused. Messages are delivered once per visibility timeout and nearly in
// order, where AWS promises neither.
//
// Every operation costs O(log n) at most in the number of messages, and queues
// share no lock while messages move.
package sqs
