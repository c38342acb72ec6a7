package sqs

import (
	"context"
	"net/http"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// moveTask moves a dead-letter queue's messages back. The service's lock guards it.
type moveTask struct {
	handle, source, destination string
	perSecond                   int
	started                     time.Time
	status                      string
	moved, toMove               int
	reason                      string
	cancel                      context.CancelFunc
}

type startMoveInput struct {
	SourceARN                    string `json:"SourceArn"`
	DestinationARN               string `json:"DestinationArn"`
	MaxNumberOfMessagesPerSecond *int
}

type taskHandle struct {
	TaskHandle string
}

// startMessageMoveTask starts moving messages from a dead-letter queue to the
// destination, or, without one, each to the queue it came from.
func (s *Service) startMessageMoveTask(ctx context.Context, in startMoveInput) (taskHandle, error) {
	source, err := s.moveSource(ctx, in.SourceARN, "StartMessageMoveTask")
	if err != nil {
		return taskHandle{}, err
	}
	if len(s.sources(source)) == 0 {
		return taskHandle{}, invalidValue(in.SourceARN, "SourceArn", "Source queue must be configured as a Dead Letter Queue.")
	}
	if in.DestinationARN != "" && s.byARN(in.DestinationARN) == nil {
		return taskHandle{}, noResource("destination")
	}
	perSecond := 500 // SQS chooses; this is its maximum
	if in.MaxNumberOfMessagesPerSecond != nil {
		perSecond = *in.MaxNumberOfMessagesPerSecond
		if perSecond < 1 || perSecond > 500 {
			return taskHandle{}, invalidValue(perSecond, "MaxNumberOfMessagesPerSecond", "Must be between 1 and 500.")
		}
	}
	source.mu.Lock()
	source.settle(time.Now())
	toMove := source.ready.live
	source.mu.Unlock()

	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.moves {
		if t.source == in.SourceARN && t.status == "RUNNING" {
			return taskHandle{}, errorf("UnsupportedOperation", "There is already a task running. Only one active task is allowed for a source queue at a given time.")
		}
	}
	t := &moveTask{
		handle: wire.NewUUID(), source: in.SourceARN, destination: in.DestinationARN, perSecond: perSecond,
		started: time.Now(), status: "RUNNING", toMove: toMove,
	}
	ctx, t.cancel = context.WithCancel(s.closing)
	s.moves = append(s.moves, t)
	s.tasks.Go(func() { s.move(ctx, source, t) })
	return taskHandle{t.handle}, nil
}

func (s *Service) moveSource(ctx context.Context, arn, action string) (*queue, *wire.Error) {
	q := s.byARN(arn)
	if q == nil {
		return nil, noResource("source")
	}
	return q, s.authorize(ctx, q, action)
}

func noResource(what string) *wire.Error {
	return wire.Errorf(http.StatusNotFound, "ResourceNotFoundException", "The resource that you specified for the %s doesn't exist.", what)
}

// move moves what is visible in the source, perSecond messages a second.
func (s *Service) move(ctx context.Context, source *queue, t *moveTask) {
	defer t.cancel()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	status, reason := "RUNNING", ""
	for status == "RUNNING" {
		moved := 0
		for moved < t.perSecond {
			if status, reason = s.moveOne(source, t.destination); status != "RUNNING" {
				break
			}
			moved++
		}
		s.mu.Lock()
		t.moved += moved
		s.mu.Unlock()
		if status == "RUNNING" {
			select {
			case <-tick.C:
			case <-ctx.Done():
				status = "CANCELLED"
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t.status, t.reason = status, reason
}

// moveOne moves a message and returns the task's status after it. The message
// starts anew, with a new id and no receive count.
func (s *Service) moveOne(source *queue, destination string) (status, reason string) {
	source.mu.Lock()
	source.settle(time.Now())
	m := source.ready.pop()
	if m != nil {
		delete(source.received, m.id)
	}
	source.mu.Unlock()
	if m == nil {
		return "COMPLETED", ""
	}
	if destination == "" {
		destination = m.deadLetterSource
	}
	target := s.byARN(destination)
	moved := newMessage(m.body, m.attributes)
	moved.senderID, moved.traceHeader, moved.groupID = m.senderID, m.traceHeader, m.groupID
	if target == nil || !target.add(0, moved) {
		source.add(0, m)
		return "FAILED", "AWS.SimpleQueueService.NonExistentQueue"
	}
	return "RUNNING", ""
}

type cancelMoveOutput struct {
	ApproximateNumberOfMessagesMoved int
}

func (s *Service) cancelMessageMoveTask(_ context.Context, in taskHandle) (out cancelMoveOutput, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.moves {
		if t.handle != in.TaskHandle {
			continue
		}
		if t.status != "RUNNING" {
			return out, errorf("UnsupportedOperation", "Only running tasks can be cancelled.")
		}
		t.cancel()
		t.status = "CANCELLING"
		out.ApproximateNumberOfMessagesMoved = t.moved
		return out, nil
	}
	return out, noResource("task handle")
}

type listMovesInput struct {
	SourceARN  string `json:"SourceArn"`
	MaxResults *int
}

type moveEntry struct {
	TaskHandle                        string `json:",omitempty" xml:",omitempty"`
	Status                            string
	SourceARN                         string `json:"SourceArn" xml:"SourceArn"`
	DestinationARN                    string `json:"DestinationArn,omitempty" xml:"DestinationArn,omitempty"`
	MaxNumberOfMessagesPerSecond      int
	ApproximateNumberOfMessagesMoved  int
	ApproximateNumberOfMessagesToMove int
	FailureReason                     string `json:",omitempty" xml:",omitempty"`
	StartedTimestamp                  int64
}

type listMovesOutput struct {
	Results []moveEntry `json:",omitempty" xml:"ListMessageMoveTasksResultEntry"`
}

func (s *Service) listMessageMoveTasks(ctx context.Context, in listMovesInput) (out listMovesOutput, _ error) {
	if _, err := s.moveSource(ctx, in.SourceARN, "ListMessageMoveTasks"); err != nil {
		return out, err
	}
	limit := 1
	if in.MaxResults != nil {
		limit = *in.MaxResults
	}
	if limit < 1 || limit > 10 {
		return out, invalidValue(limit, "MaxResults", "Must be between 1 and 10.")
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for i := len(s.moves) - 1; i >= 0 && len(out.Results) < limit; i-- {
		t := s.moves[i]
		if t.source != in.SourceARN {
			continue
		}
		e := moveEntry{
			Status: t.status, SourceARN: t.source, DestinationARN: t.destination,
			MaxNumberOfMessagesPerSecond: t.perSecond, ApproximateNumberOfMessagesMoved: t.moved,
			ApproximateNumberOfMessagesToMove: t.toMove, FailureReason: t.reason,
			StartedTimestamp: t.started.UnixMilli(),
		}
		if t.status == "RUNNING" {
			e.TaskHandle = t.handle
		}
		out.Results = append(out.Results, e)
	}
	return out, nil
}
