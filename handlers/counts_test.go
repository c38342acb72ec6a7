package handlers_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/sns"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/judgement"
	"github.com/cmkeeper/cmkeeper/outcome"
)

// counter counts the requests of a worker to AWS, those to the state bucket as well.
type counter struct {
	mu  sync.Mutex
	all []request
}

func (c *counter) tap(r request, answered bool) {
	if answered {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, r)
}

// take returns the requests since it was last called.
func (c *counter) take() []request {
	c.mu.Lock()
	defer c.mu.Unlock()
	taken := c.all
	c.all = nil
	return taken
}

// counted makes the world's worker one whose requests are counted.
func (w *world) counted(count *counter, c reaction.Config, change func(*reaction.Deps)) {
	w.t.Helper()
	w.tap = count.tap
	w.router = w.newRouterWith(c, change)
}

// name is the operation with its service, and whether it is about the state bucket.
func (r request) name() string {
	if r.service == "S3" && (strings.HasPrefix(r.target, "/"+stateBucket+"/") || strings.HasPrefix(r.target, "/"+stateBucket+"?")) {
		return "state " + r.operation
	}
	return r.service + " " + r.operation
}

// changesKey reports whether the request changes a key.
func (r request) changesKey() bool {
	return r.service == "KMS" && slices.Contains(changes, r.operation)
}

// isRead reports whether the request reads.
func (r request) isRead() bool {
	return slices.ContainsFunc([]string{"Get", "Head", "List", "Describe", "Lookup", "Select"}, func(verb string) bool { return strings.HasPrefix(r.operation, verb) })
}

// perOperation is how many requests there were of each operation, in one line.
func perOperation(all []request) string {
	n := map[string]int{}
	for _, r := range all {
		n[r.name()]++
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(n)) {
		parts = append(parts, fmt.Sprintf("%d %s", n[name], name))
	}
	return strings.Join(parts, ", ")
}

// TestNoFactIsReadTwice plays every row of the event table and looks at the requests of
// each message: before the first call that changes a key nothing is read twice, no
// document in the state bucket either.
func TestNoFactIsReadTwice(t *testing.T) {
	var table strings.Builder
	for _, row := range handlers.TableRows() {
		p := plays[row.Key]
		if row.Unusable {
			p = failedUse(row.Name)
		}
		for _, mode := range []reaction.Mode{reaction.Observe, reaction.Enforce} {
			t.Run(row.Key+"/"+string(mode), func(t *testing.T) {
				c := playConfig(mode, p)
				inWorld(t, c, func(w *world) {
					p.do(w)
					count := &counter{}
					w.counted(count, c, func(d *reaction.Deps) { d.Alerts = countingSink{d.Alerts, count} })
					for _, body := range w.events() {
						if is(row, body) {
							w.handleOnceMore(body, func() {
								line, twice := readTwice(count.take())
								fmt.Fprintf(&table, "| %s, %s | %s |\n", row.Key, mode, line)
								for _, what := range twice {
									t.Error(what)
								}
							})
						}
					}
				})
			})
		}
	}
	t.Logf("| event/reaction, mode | requests to AWS before the first call that changes a key; and after |\n|---|---|\n%s", &table)
}

// TestCaseReadsEachFactOnce: what a Case says is read once, and what it may not read is
// an inventory.ErrAccessDenied. Only a read-back, named so, is made again.
func TestCaseReadsEachFactOnce(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		w.newKey(kms.CreateKeyInput{})
		e := must(events.Parse([]byte(w.event("CreateKey"))))
		e.Alias = listed
		count := &counter{}
		w.counted(count, enforceAll(), func(*reaction.Deps) {})
		read := func(c *reaction.Case, m reflect.Method) (requests int, err error) {
			count.take()
			out := m.Func.Call([]reflect.Value{reflect.ValueOf(c), reflect.ValueOf(w.ctx)})
			err, _ = out[1].Interface().(error)
			return len(count.take()), err
		}
		for m := range reflect.TypeFor[*reaction.Case]().Methods() {
			if m.Type.NumIn() != 2 || m.Type.NumOut() != 2 || m.Type.In(1) != reflect.TypeFor[context.Context]() || strings.HasSuffix(m.Name, "Again") {
				continue
			}
			w.aws.SetIdentityPolicy(keeperKey, nil)
			c := w.router.NewCase(e)
			first, err := read(c, m)
			second, errAgain := read(c, m)
			if first == 0 || second != 0 || err != nil || errAgain != nil {
				t.Errorf("%s made %d requests, then %d: %v, %v", m.Name, first, second, err, errAgain)
			}
			w.aws.SetIdentityPolicy(keeperKey, func(action, _ string) bool { return !strings.HasPrefix(action, "kms:") })
			if _, err := read(w.router.NewCase(e), m); err != nil && !errors.Is(err, inventory.ErrAccessDenied) {
				t.Errorf("%s that may not be read: %v", m.Name, err)
			}
		}
	})
}

// handleOnceMore handles a body as handle does, and calls done after each attempt.
func (w *world) handleOnceMore(body string, done func()) {
	w.t.Helper()
	for range 100 {
		d := outcome.Of(w.router.Handle(w.ctx, handlers.Message{Body: []byte(body)}))
		done()
		if d.Action != outcome.Delay {
			if d.Err != nil {
				w.t.Fatal(d.Err)
			}
			return
		}
		time.Sleep(d.After)
	}
	w.t.Fatal("the message waits for ever")
}

// readTwice describes the requests of a message, and what was read twice. Facts may be
// read again once a key was changed, to see that it took effect; documents once
// something was told, too, to note that. And a policy is read once more right before
// it is replaced, so that nobody's change is overwritten.
func readTwice(all []request) (line string, twice []string) {
	act := slices.IndexFunc(all, request.changesKey)
	if act < 0 {
		act = len(all)
	}
	facts := all[:act]
	if n := len(facts); act < len(all) && all[act].operation == "PutKeyPolicy" && n > 0 && facts[n-1].operation == "GetKeyPolicy" {
		facts = facts[:n-1]
	}
	seen, told := map[request]int{}, false
	for _, r := range facts {
		told = told || r.service == toldService
		if !r.isRead() || told && strings.HasPrefix(r.name(), "state ") {
			continue
		}
		if seen[r]++; seen[r] == 2 {
			twice = append(twice, fmt.Sprintf("%s is read twice: %s", r.name(), r.target))
		}
	}
	isTold := func(r request) bool { return r.service == toldService }
	before, after := slices.DeleteFunc(slices.Clone(all[:act]), isTold), slices.DeleteFunc(slices.Clone(all[act:]), isTold)
	line = fmt.Sprintf("%d: %s", len(before), perOperation(before))
	if len(after) > 0 {
		line += fmt.Sprintf("; then %d: %s", len(after), perOperation(after))
	}
	return line, twice
}

// toldService is the service of what stands for an alert among the requests.
const toldService = "alert"

// countingSink puts alerts among the requests.
type countingSink struct {
	alert.Sink
	count *counter
}

func (s countingSink) Publish(ctx context.Context, a alert.Alert) error {
	s.count.tap(request{service: toldService, operation: "Publish", target: a.ID}, false)
	return s.Sink.Publish(ctx, a)
}

// TestRequestsPerEvent bounds what an event costs, from its handling to its alert in the
// topic. SQS's own requests do not count, and alerts are not grouped.
func TestRequestsPerEvent(t *testing.T) {
	// full is a deployment that uses everything that has to do with policies: who
	// opens a key is put right and contained, keys are told apart by alias, and some
	// are exempt by their tag.
	full := func(t *testing.T, mode reaction.Mode) reaction.Config {
		c := containing(t)
		c.Policy, c.Contain = mode, mode
		return c
	}
	exempting := func(t *testing.T) reaction.Config {
		c := full(t, reaction.Observe)
		c.Rules.Sensitive = selector(t, "alias/restricted-*")
		c.Exemptions = must(judgement.ParseExemptions("policy of alias/legacy-* until 2000-06-30: the vendor", handlers.Exemptible()))
		return c
	}
	enforced := func(t *testing.T) reaction.Config { return full(t, reaction.Enforce) }
	for _, tt := range []struct {
		name   string
		config func(*testing.T) reaction.Config
		policy string
		most   int // 0: listed, and not bounded
		told   int
		// grouped: the alert is told with others later, which then counts there.
		grouped bool
	}{
		{"PutKeyPolicy that changes nothing", configured(enforcePolicies), rootOnly, 4, 0, false},
		{"PutKeyPolicy that changes nothing, containment on", enforced, rootOnly, 0, 0, false},
		{"a harmless change", configured(enforcePolicies), withReader, 10, 1, false},
		{"a harmless change, alerts grouped", configured(enforcePolicies), withReader, 0, 0, true},
		{"a harmless change, containment on", enforced, withReader, 0, 1, false},
		{"a key opened to everybody, put-back on", configured(enforcePolicies), takeover, 0, 1, false},
		{"a key opened to everybody, put-back and containment on", enforced, takeover, 18, 1, false},
		{"a key opened to everybody, put-back and containment on, alerts grouped", enforced, takeover, 0, 1, true},
		{"a key opened to everybody, policies and containment observed", func(t *testing.T) reaction.Config { return full(t, reaction.Observe) }, takeover, 0, 2, false},
		{"the same, with a rule by alias and an exemption", exempting, takeover, 0, 2, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := tt.config(t)
			inWorld(t, c, func(w *world) {
				key := w.guardedKey()
				w.events()
				topics := sns.NewFromConfig(inprocess.Config(w.aws, region, "mallory"))
				topic := *must(topics.CreateTopic(w.ctx, &sns.CreateTopicInput{Name: aws.String("alerts")})).TopicArn
				w.putPolicy(key, tt.policy)
				body := w.event("PutKeyPolicy")
				count := &counter{}
				w.counted(count, c, func(d *reaction.Deps) {
					p := &alert.Publisher{SNS: sns.NewFromConfig(w.keeperConfig()), Store: d.State, Topics: []alert.Topic{{ARN: topic}}}
					if tt.grouped {
						p.Grouping = &alert.Grouping{SQS: w.sqs, QueueURL: w.queue, Wait: 30 * time.Second, Interval: time.Minute}
					}
					d.Alerts, d.Digests = p, p
				})
				if err := w.router.Handle(w.ctx, handlers.Message{Body: []byte(body)}); err != nil {
					t.Fatal(err)
				}
				all := count.take()
				t.Logf("| %s | %d | %s |", tt.name, len(all), perOperation(all))
				if got := w.aws.Requests("sns", "Publish"); got != tt.told {
					t.Errorf("%d alerts reached the topic, want %d", got, tt.told)
				}
				if tt.most > 0 && len(all) > tt.most {
					var lines []string
					for _, r := range all {
						lines = append(lines, r.name()+" "+strings.SplitN(r.target, " ", 2)[0])
					}
					t.Errorf("%d requests, want at most %d:\n%s", len(all), tt.most, strings.Join(lines, "\n"))
				}
			})
		})
	}
}
