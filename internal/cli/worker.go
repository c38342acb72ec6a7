package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/dependents"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/confirm"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/internal/eventlog"
	"github.com/cmkeeper/cmkeeper/internal/metrics"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/reencrypt"
	"github.com/cmkeeper/cmkeeper/retire"
	"github.com/cmkeeper/cmkeeper/state"
	"github.com/cmkeeper/cmkeeper/worker"
)

func newWorkerCommand(p *process) *cobra.Command {
	return &cobra.Command{
		Use: "worker", Short: "Work on the queues until SIGTERM, as a member of the fleet; configured by CMKEEPER_ variables", Args: cobra.NoArgs,
		RunE: p.action(runWorker),
	}
}

// runWorker works until the context is cancelled and every received message is deleted or returned.
func runWorker(ctx context.Context, p *process) error {
	c, err := LoadConfig(ctx, p.environment)
	if err != nil {
		return usageError{err}
	}
	cfg, err := p.config(ctx, c.connections())
	if err != nil {
		return err
	}
	if p.environment["GOGC"] == "" {
		// Hundreds of deep stacks over a heap of a few MiB: the collector would run many
		// times a second. This saves an eighth of the CPU time for 10 MiB.
		debug.SetGCPercent(200)
	}
	if p.environment["GOMEMLIMIT"] == "" {
		debug.SetMemoryLimit(c.memoryLimit())
	}
	f := fleetMember{config: c, aws: cfg, log: c.logger(p.stderr)}
	if agent := p.environment["ECS_AGENT_URI"]; agent != "" {
		f.protection = worker.NewProtection(agent, http.DefaultClient, f.log)
	}
	return f.run(ctx)
}

// fleetMember is a member of the fleet: what it works with.
type fleetMember struct {
	config Config
	aws    aws.Config
	log    *slog.Logger
	// protection is the ECS task's, nil elsewhere.
	protection *worker.Protection
	// metrics is set by wire.
	metrics *metrics.Metrics
	// swept, if set, is called after the start-up sweep, when it knows the account;
	// where there is none, as soon as the member is ready.
	swept func()
}

// logger returns the logger that the configuration asks for.
func (c Common) logger(w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.LogLevel)) // checked when it was read
	options := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "text" {
		return slog.New(eventlog.Handler(slog.NewTextHandler(w, options)))
	}
	return slog.New(eventlog.Handler(slog.NewJSONHandler(alert.JSONWriter{W: w}, options)))
}

// connections is how many calls to one host run at once.
func (c Config) connections() int {
	return c.ReencryptConcurrency + c.EventsConcurrency + c.JobsConcurrency
}

// memoryLimit is above what a worker needs as a rule: from there on garbage is collected
// as often as it has to be, so that the largest messages that there are do not make it
// take twice as much. With the defaults it is 96 MiB, for a process of 128 MiB.
func (c Config) memoryLimit() int64 { return 80<<20 + int64(c.connections())*160<<10 }

// run works from the checks at the start to the end of the drain.
func (f fleetMember) run(ctx context.Context) error {
	var isReady atomic.Bool
	var working atomic.Pointer[wired]
	server := healthServer(f.config.HTTPAddr, func() string {
		switch w := working.Load(); {
		case !isReady.Load():
			return "not receiving yet"
		case w.sight != nil:
			return w.sight.blindness()
		}
		return ""
	}, func() http.Handler {
		if w := working.Load(); w != nil {
			return w.metrics
		}
		return nil
	})
	listening := make(chan error, 1)
	go func() { listening <- serve(ctx, server) }()
	defer func() { _ = server.Close() }()

	w, err := f.wire(ctx)
	if deaf := <-listening; deaf != nil {
		return deaf
	}
	if err != nil {
		return err
	}
	working.Store(w)
	return f.work(ctx, w, func() { isReady.Store(true) })
}

// work works until the end of the drain. ready is called when messages are received.
func (f fleetMember) work(ctx context.Context, w *wired, ready func()) error {
	g, ctx := errgroup.WithContext(ctx)
	var draining sync.WaitGroup
	for _, p := range w.pools {
		draining.Add(1)
		g.Go(func() error { defer draining.Done(); return p.Run(ctx) })
	}
	if f.protection != nil {
		protected, unprotect := context.WithCancel(context.WithoutCancel(ctx))
		go func() { draining.Wait(); unprotect() }()
		g.Go(func() error { f.protection.Run(protected); return nil })
	}
	if w.records != nil {
		g.Go(func() error { return w.records.Run(ctx) })
	}
	if w.sight != nil {
		g.Go(func() error { w.sight.run(ctx); return nil })
	}
	if w.report != nil {
		g.Go(func() error { w.report.run(ctx); return nil })
	}
	g.Go(func() error {
		for _, p := range w.pools {
			select {
			case <-p.Ready():
			case <-ctx.Done():
				return nil
			}
		}
		ready()
		if f.config.runsEvents() {
			g.Go(func() error { return w.takeSnapshot(ctx) })
		}
		f.log.Info("starting", "version", versionString(), "identity", w.identity, "region", f.aws.Region, "config", f.config)
		f.log.Info("ready")
		for _, risk := range w.risks(ctx) {
			f.log.Warn("cmkeeper itself depends on a key that it guards", "what", risk.Statement, "problem", risk.Message)
		}
		if f.config.runsEvents() { // a member that only moves data may not be able to guard keys
			select {
			case <-w.known:
			case <-ctx.Done():
				return nil
			}
			f.startupSweep(ctx, w.router)
			g.Go(func() error { w.router.Watch(ctx); return nil })
		}
		// What the start and the sweep needed, and an idle worker would keep: it makes
		// too little garbage for a collection.
		debug.FreeOSMemory()
		if f.swept != nil {
			f.swept()
		}
		return nil
	})
	return g.Wait()
}

// serve listens, and lets the server answer until it is closed.
func serve(ctx context.Context, server *http.Server) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", server.Addr)
	if err != nil {
		return fmt.Errorf("listen on %sHTTP_ADDR: %w", envPrefix, err)
	}
	go func() { _ = server.Serve(listener) }()
	return nil
}

// healthServer answers /healthz while the process runs and /readyz unless unready says why it
// is not ready. Where there is measured, it answers /metrics once that returns a handler.
func healthServer(addr string, unready func() string, measured func() http.Handler) *http.Server {
	mux := http.NewServeMux()
	if measured != nil {
		mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
			m := measured()
			if m == nil {
				http.Error(w, "starting", http.StatusServiceUnavailable)
				return
			}
			m.ServeHTTP(w, r)
		})
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if why := unready(); why != "" {
			http.Error(w, why, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return &http.Server{Addr: addr, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
}

// wired is a fleet member's parts, not yet running.
type wired struct {
	router *handlers.Router
	// identity is the ARN of who this member is.
	identity string
	pools    []*worker.Pool
	report   *reportSchedule  // nil where none is asked for
	records  *confirm.Records // nil where no events are handled
	sight    *sight           // nil where no events are handled
	metrics  *metrics.Metrics
	// known is closed when the alias snapshot is taken, before the first event is handled.
	known chan struct{}
	// risks returns what of the configuration depends on keys that are guarded.
	risks func(context.Context) []finding.Finding
}

// takeSnapshot notes the aliases: without it the first one that moves would have no old
// key. Events are received meanwhile, and handled afterwards.
func (w *wired) takeSnapshot(ctx context.Context) error {
	if err := w.router.Snapshot(ctx); err != nil {
		return fmt.Errorf("take the alias snapshot: %w", err)
	}
	close(w.known)
	return nil
}

// handle handles an event.
func (w *wired) handle(ctx context.Context, m worker.Message) error {
	select {
	case <-w.known:
		return w.router.Handle(ctx, handlers.Message{Body: []byte(m.Body), Sent: m.Sent, Sender: m.Sender})
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// wire checks what the configuration names and connects everything to it.
func (f fleetMember) wire(ctx context.Context) (*wired, error) {
	f.metrics = newMetrics()
	f.aws = awsclient.Observe(f.aws, f.requested)
	c, cfg, log := f.config, f.aws, f.log
	var (
		queues = awsclient.SQS(cfg)
		topics = sns.NewFromConfig(cfg)
		bucket = c.s3(cfg)
	)
	check := dependencies{
		config: c, region: cfg.Region, caller: whoWeAre(ctx, cfg), account: arn.Account(c.AlertTopicARN), sqs: queues, sns: topics, s3: bucket, log: log,
	}
	found, caller, err := check.start(ctx)
	if err != nil {
		return nil, err
	}
	account, fleet := check.account, check.fleet()
	identity, err := reaction.ParseIdentity(aws.ToString(caller.Arn))
	if err != nil {
		return nil, err
	}
	store := c.store(bucket, c.StateBucket, account)
	keys := kms.NewFromConfig(cfg)
	facts := inventory.New(keys, bucket, account, cfg.Region)
	own := ownMessages{queues, fleet}
	alerts := c.publisher(topics, own, store, log)
	alerts.Count = f.alerted
	others := &neighbours{fleet: fleet, alerts: alerts, log: log}
	engine, err := reencrypt.New(c.engine(reencrypt.Options{
		S3: bucket, Resolver: facts, KMS: keys, Account: account, By: identity.Noun() + "/" + identity.Name, Store: store, SQS: own,
		// The client is there even where CMKEEPER_REENCRYPT_ENGINE is fleet: batch jobs that
		// others have begun have to be ended, too.
		Batch:    awsclient.S3Control(cfg, account),
		Observer: handlers.JobAlerts{Alerts: alerts, Account: account, Region: cfg.Region, StateBucket: c.StateBucket},
		Ties:     f.ties(retire.Checker{S3: bucket, Facts: facts, Account: account, Resources: &dependents.Reader{Config: awsclient.AWSConfig(cfg)}}),
		Meter:    f.metrics,
		Logger:   log,
	}))
	if err != nil {
		return nil, err
	}
	f.metrics.WatchWidth(widthOf(engine))
	reactions, err := c.reactions(identity, cfg.Region, c.topics(), found.queueNames())
	if err != nil {
		return nil, err
	}
	deps := reaction.Deps{
		KMS: keys, Facts: facts, State: store, Alerts: alerts, Digests: alerts, Moves: engine, Metrics: f.metrics, Logger: log,
		Scans: engine, Trail: awsclient.CloudTrail(cfg), Resources: awsclient.AWSConfig(cfg), EBS: awsclient.NewEC2(cfg), Send: sender(own, c.EventsQueueURL),
	}
	w := &wired{
		identity: aws.ToString(caller.Arn), known: make(chan struct{}), metrics: f.metrics,
		risks: func(ctx context.Context) []finding.Finding {
			risks, _ := check.risks(ctx, found) // the sweep says what cannot be read
			return risks
		},
	}
	if events := found.queue(c.EventsQueueURL); events != nil {
		w.records = c.records(cfg, store, log)
		watched := check.guard(cfg, events, reactions, others)
		deps.Guard = watched.read
		deps.Records, deps.Senders = w.records, &handlers.QueueSenders{
			Policy: watched.policy, QueueARN: events.ARN, Identity: identity, Rules: reactions.EventRules, State: store, Logger: log,
		}
	}
	if reactions.AccessReview {
		deps.IAM = awsclient.NewIAM(awsclient.As(cfg, reactions.AccessRole, "cmkeeper-access-review"))
	}
	if c.reportsWeekly() {
		by := byHand{account: account, caller: w.identity, region: cfg.Region, settings: c.Common, facts: facts, s3: bucket, ebs: awsclient.NewEC2(cfg), trails: awsclient.CloudTrail(cfg)}
		w.report = by.scheduleReports(c.SweepQuotaShare, alerts, engine, log)
		deps.Swept = w.report.swept
	}
	if w.router, err = handlers.New(deps, reactions); err != nil {
		return nil, err
	}

	var inFlight func(int)
	if f.protection != nil {
		inFlight = f.protection.InFlight
	}
	pool := func(name string, o worker.Options, handle worker.HandlerFunc) error {
		o.Queue, o.Logger, o.InFlight, o.Sender = found.queue(o.QueueURL), log, inFlight, aws.ToString(caller.UserId)
		o.Handled = f.handled(name)
		p, err := worker.New(ctx, queues, others.keepApart(o.Queue, handle), o)
		if err != nil {
			return err
		}
		f.metrics.Watch(name, receiving(p))
		w.pools = append(w.pools, p)
		return nil
	}
	if c.runsEvents() {
		if err := pool(metrics.EventsQueue, c.eventsPool(), w.handle); err != nil {
			return nil, err
		}
		w.sight = &sight{
			pool: w.pools[0], after: c.BlindAfter, alerts: alerts, store: store, log: log, look: c.SweepInterval,
			worker: w.identity, account: account, region: cfg.Region,
		}
		f.metrics.WatchSight(func() bool { return w.sight.blindness() != "" })
	}
	if c.runsJobs() {
		if err := pool(metrics.JobsQueue, c.jobsPool(), func(ctx context.Context, m worker.Message) error {
			return engine.Handle(ctx, []byte(m.Body))
		}); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// sender sends the fleet's own messages to a queue; nil where there is none.
func sender(own ownMessages, queue string) func(context.Context, string, time.Duration) error {
	if queue == "" {
		return nil
	}
	return func(ctx context.Context, body string, after time.Duration) error {
		_, err := own.SendMessage(ctx, &sqs.SendMessageInput{QueueUrl: &queue, MessageBody: &body, DelaySeconds: int32(after / time.Second)})
		return err
	}
}

// whoWeAre returns what asks AWS, once, who this is.
func whoWeAre(ctx context.Context, cfg aws.Config) func() (*sts.GetCallerIdentityOutput, error) {
	return sync.OnceValues(func() (*sts.GetCallerIdentityOutput, error) {
		out, err := sts.NewFromConfig(cfg).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
		if err != nil {
			return nil, fmt.Errorf("ask AWS who we are: %w", err)
		}
		return out, nil
	})
}

// records asks CloudTrail about events. Its calls are counted, so none is tried again by
// the client.
func (c Config) records(cfg aws.Config, store *state.Store, log *slog.Logger) *confirm.Records {
	cfg.Retryer = func() aws.Retryer { return aws.NopRetryer{} }
	return confirm.New(awsclient.CloudTrail(cfg), store, c.confirmations(), log)
}

// confirmations is how CloudTrail is asked about events.
func (c Config) confirmations() confirm.Config {
	return confirm.Config{PerSecond: c.ConfirmLookupsPerSecond}
}

// reactions are how a member of the fleet reacts.
func (c Config) reactions(identity reaction.Identity, region string, topics []alert.Topic, queues []string) (reaction.Config, error) {
	r, err := c.Common.reactions(identity, region, topics, queues)
	r.Concurrency, r.SweepShare, r.Build = c.EventsConcurrency, c.SweepQuotaShare, versionString()
	r.EnvelopeFlags = reencrypt.Envelopes(c.ReencryptEnvelopes).Flags(c.ReencryptRewriteFiles)
	return r, err
}

// reportsWeekly reports whether this member may make the fleet's report.
func (c Config) reportsWeekly() bool { return c.ReportSchedule == "weekly" && c.runsEvents() }

// eventsPool is how the events queue is worked on.
func (c Config) eventsPool() worker.Options {
	return worker.Options{QueueURL: c.EventsQueueURL, Concurrency: c.EventsConcurrency, DrainTimeout: c.DrainTimeout, Late: c.BlindAfter}
}

// jobsPool is how the jobs queue is worked on.
func (c Config) jobsPool() worker.Options {
	return worker.Options{QueueURL: c.JobsQueueURL, Concurrency: c.JobsConcurrency, DrainTimeout: c.DrainTimeout}
}

// engine adds to the options what the configuration says of them.
func (c Config) engine(o reencrypt.Options) reencrypt.Options {
	o.StateBucket, o.StatePrefix, o.QueueURL = c.StateBucket, c.StatePrefix, c.JobsQueueURL
	o.Method, o.Concurrency, o.Rate = reencrypt.Method(c.ReencryptMethod), c.ReencryptConcurrency, float64(c.ReencryptRate)
	o.Envelopes, o.RewriteFiles = reencrypt.Envelopes(c.ReencryptEnvelopes), c.ReencryptRewriteFiles
	o.Executor, o.BatchRole, o.BatchThreshold = reencrypt.Executor(c.ReencryptEngine), c.BatchRoleARN, int64(c.BatchThreshold)
	o.FixBucketDefault = c.ReencryptFixBucketDefault
	return o
}

// ties is what the report of a job says of an old key. A member that only moves data
// may not be able to look at all keys and buckets.
func (f fleetMember) ties(c retire.Checker) func(context.Context, string) []string {
	if f.config.runsEvents() {
		return c.Short
	}
	return func(_ context.Context, keyARN string) []string {
		return []string{"Before the old key goes, look for what else holds on to it: " + command.Line("cmkeeper retire check %s --envelopes content", command.Key(keyARN))}
	}
}

// startupSweep looks for what happened while no worker ran. It is tried again
// until it succeeds once in the fleet; a failing sweep, which the router logs, does not
// stop the events.
func (f fleetMember) startupSweep(ctx context.Context, router *handlers.Router) {
	const first, longest = time.Second, 30 * time.Minute
	for wait := first; ; wait = min(2*wait, longest) {
		err := router.StartupSweep(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		if outcome.Of(err).Action != outcome.Delay { // else another member sweeps, or it is not time yet
			f.log.Error("start-up sweep", "error", err, "again_in", wait)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}
