package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

const (
	// protectFor is how long ECS is asked to protect the task; it is asked again
	// when half of that has passed. A task that hangs is protected no longer.
	protectFor = 10 * time.Minute
	// protectIdle is how long the task has to be idle before protection goes
	// off: ECS limits how often it may change.
	protectIdle = time.Minute
	// protectRetry is the wait after a failure.
	protectRetry = 30 * time.Second
	// protectTimeout bounds a request to the ECS agent on the same host.
	protectTimeout = 5 * time.Second
)

// Protection keeps ECS from choosing this task when it scales in or deploys,
// while messages are in flight (ECS task scale-in protection through the agent's
// task-protection endpoint; the task role needs ecs:UpdateTaskProtection and
// ecs:GetTaskProtection). It does not guard against the loss of a host or a Spot
// interruption; draining is for that. A failure is logged and never
// stops work.
type Protection struct {
	url    string
	client aws.HTTPClient
	log    *slog.Logger
	held   atomic.Int64
	wake   chan struct{} // a token when held has left or reached zero
}

// NewProtection returns the protection of the task whose agent is at agentURI,
// the value of ECS_AGENT_URI, reached through client (http.DefaultClient will
// do). Share one among all pools of the process.
func NewProtection(agentURI string, client aws.HTTPClient, log *slog.Logger) *Protection {
	return &Protection{
		url:    agentURI + "/task-protection/v1/state",
		client: client,
		log:    log,
		wake:   make(chan struct{}, 1),
	}
}

// InFlight is for Options.InFlight: it counts the messages in flight.
func (p *Protection) InFlight(delta int) {
	now := p.held.Add(int64(delta))
	if now == 0 || now == int64(delta) {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
}

// Run switches protection on and off until ctx is done, and off then. Its context has to
// outlive the Run of every pool: messages are in flight until the end of their drain.
func (p *Protection) Run(ctx context.Context) {
	var (
		failing    condition
		protected  bool
		renewAt    time.Time // when protected
		idleSince  time.Time // when protected and nothing is held; else zero
		retryAfter time.Time
	)
	for {
		now := time.Now()
		working := p.held.Load() > 0
		switch {
		case working || !protected:
			idleSince = time.Time{}
		case idleSince.IsZero():
			idleSince = now
		}
		on := working || protected && now.Before(idleSince.Add(protectIdle))
		change := on != protected || on && !now.Before(renewAt)
		if change && !now.Before(retryAfter) {
			if err := p.set(ctx, on); err != nil {
				retryAfter = now.Add(protectRetry)
				if failing.failed(err) {
					p.log.Warn("cannot change ECS task protection", "error", err)
				}
			} else {
				protected, renewAt, change = on, now.Add(protectFor/2), false
				if failing.succeeded(now) {
					p.log.Info("changing ECS task protection again")
				}
			}
		}

		wait := time.Hour
		switch {
		case change:
			wait = retryAfter.Sub(now)
		case protected && !idleSince.IsZero():
			wait = min(idleSince.Add(protectIdle).Sub(now), renewAt.Sub(now))
		case protected:
			wait = renewAt.Sub(now)
		}
		timer := time.NewTimer(max(wait, 0))
		select {
		case <-timer.C:
		case <-p.wake:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			if protected {
				if err := p.set(context.WithoutCancel(ctx), false); err != nil {
					p.log.Warn("cannot end ECS task protection; it expires by itself", "error", err)
				}
			}
			return
		}
	}
}

// set asks the agent for protection, or for its end.
func (p *Protection) set(ctx context.Context, on bool) error {
	request := struct {
		ProtectionEnabled bool
		ExpiresInMinutes  int `json:",omitempty"`
	}{ProtectionEnabled: on}
	if on {
		request.ExpiresInMinutes = int(protectFor / time.Minute)
	}
	body, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("encode task protection: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, protectTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPut, p.url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("request task protection: %w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	response, err := p.client.Do(r)
	if err != nil {
		return fmt.Errorf("request task protection: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("read task protection: %w", err)
	}
	// The agent answers with one of protection, failure and error.
	var got struct {
		Protection *struct{ ProtectionEnabled bool } `json:"protection"`
		Failure    struct{ Reason string }           `json:"failure"`
		Error      struct{ Code, Message string }    `json:"error"`
	}
	if err := json.Unmarshal(answer, &got); err != nil {
		return fmt.Errorf("read task protection: status %d: %w", response.StatusCode, err)
	}
	switch {
	case got.Error.Code != "":
		return fmt.Errorf("set task protection: %s: %s", got.Error.Code, got.Error.Message)
	case got.Failure.Reason != "":
		return fmt.Errorf("set task protection: %s", got.Failure.Reason)
	case got.Protection == nil || got.Protection.ProtectionEnabled != on:
		return errors.New("set task protection: the agent did not confirm it")
	}
	return nil
}
