package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/dependents"
	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/reencrypt"
	"github.com/cmkeeper/cmkeeper/state"
)

// byHand is what the commands that people run work with.
type byHand struct {
	// account and caller, an ARN, are who runs the command; region is where.
	account, caller, region string
	settings                Common
	kms                     *kms.Client
	s3                      *s3.Client
	sqs                     *sqs.Client
	sns                     *sns.Client
	facts                   *inventory.Reader
	ebs                     *awsclient.EC2
	trails, resources       *awsclient.JSON // CloudTrail and AWS Config
	iam                     *awsclient.IAM
	stderr                  io.Writer
}

// newByHand makes the clients for so many calls at once.
func newByHand(ctx context.Context, p *process, settings Common, connections int) (byHand, error) {
	return newByHandIn(ctx, p, settings, connections, "")
}

// newByHandIn is newByHand for an account; where that is not "", STS is not asked for
// it, and caller is "".
func newByHandIn(ctx context.Context, p *process, settings Common, connections int, account string) (byHand, error) {
	cfg, err := p.config(ctx, connections)
	if err != nil {
		return byHand{}, err
	}
	caller := &sts.GetCallerIdentityOutput{Account: &account}
	if account == "" {
		if caller, err = sts.NewFromConfig(cfg).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{}); err != nil {
			return byHand{}, fmt.Errorf("ask AWS who we are: %w", err)
		}
	}
	b := byHand{
		account: aws.ToString(caller.Account), caller: aws.ToString(caller.Arn), region: cfg.Region, settings: settings,
		kms: kms.NewFromConfig(cfg), s3: settings.s3(cfg), sqs: awsclient.SQS(cfg), sns: sns.NewFromConfig(cfg), ebs: awsclient.NewEC2(cfg), trails: awsclient.CloudTrail(cfg), resources: awsclient.AWSConfig(cfg), iam: awsclient.NewIAM(cfg), stderr: p.stderr,
	}
	b.facts = inventory.New(b.kms, b.s3, b.account, b.region)
	return b, nil
}

// config is how a command calls AWS, with so many calls at once.
func (p *process) config(ctx context.Context, connections int) (aws.Config, error) {
	if p.aws != nil {
		return *p.aws, nil
	}
	return awsclient.Load(ctx, connections)
}

// loadByHand reads Common and makes the clients for so many calls at once.
func loadByHand(ctx context.Context, p *process, connections int) (byHand, error) {
	settings, err := loadForDesk[Common](ctx, p.environment)
	if err != nil {
		return byHand{}, err
	}
	return newByHand(ctx, p, settings, connections)
}

// dependents asks AWS Config and CloudTrail which resources need a key.
func (b byHand) dependents() *dependents.Reader {
	return &dependents.Reader{Config: b.resources, Uses: func(ctx context.Context, keyARN string) ([]dependents.Event, error) {
		return dependents.LookUp(ctx, b.trails, keyARN)
	}}
}

// store is the state in a bucket.
func (b byHand) store(bucket string) *state.Store { return b.settings.store(b.s3, bucket, b.account) }

// store is the state in a bucket of the account.
func (c Common) store(client state.S3, bucket, account string) *state.Store {
	return state.New(client, bucket, c.StatePrefix, account)
}

// s3 returns a client of S3.
func (c Common) s3(cfg aws.Config) *s3.Client { return awsclient.S3(cfg, c.S3PathStyle) }

// engine returns an engine without jobs. stateBucket is for scratch objects; it
// may be "".
func (b byHand) engine(stateBucket string, concurrency int, rate float64) (*reencrypt.Engine, error) {
	return reencrypt.New(reencrypt.Options{
		S3: b.s3, Resolver: b.facts, KMS: b.kms, Account: b.account,
		StateBucket: stateBucket, StatePrefix: b.settings.StatePrefix,
		FixBucketDefault: b.settings.ReencryptFixBucketDefault,
		Concurrency:      concurrency, Rate: rate, Logger: b.settings.logger(b.stderr),
	})
}

// askRate is how many objects a second a command that moves nothing asks KMS about, whose
// quota the account's applications share; it is the fleet's default for moves.
const askRate = 500

// moveFlags are what reencrypt run and plan have in common.
type moveFlags struct {
	account, stateBucket string
	concurrency          int
	rate                 float64
}

func (f *moveFlags) add(c *cobra.Command, p *process, rate float64) {
	flags := c.Flags()
	flags.IntVar(&f.concurrency, "concurrency", 64, "objects worked on at once")
	flags.Float64Var(&f.rate, "rate", rate, "objects per second at most; 0 is unlimited")
	flags.StringVar(&f.stateBucket, "state-bucket", p.environment[envPrefix+"STATE_BUCKET"], "`bucket` for scratch objects, by default CMKEEPER_STATE_BUCKET; the method copy needs none")
	flags.StringVar(&f.account, "account", "", "12-digit `account` that owns the buckets; by default STS is asked for the caller's")
}

// check returns what is wrong with the flags, for a method.
func (f *moveFlags) check(method reencrypt.Method) error {
	switch {
	case f.concurrency < 1 || f.rate < 0:
		return errors.New("--concurrency must be at least 1 and --rate not negative")
	case f.account != "" && (len(f.account) != 12 || strings.Trim(f.account, "0123456789") != ""):
		return fmt.Errorf("--account %q is not an account's 12 digits", f.account)
	case f.stateBucket == "" && method.Probed():
		return fmt.Errorf("--method %s tries UpdateObjectEncryption on a scratch object first: name a bucket for it with --state-bucket or %sSTATE_BUCKET, or choose --method copy", method, envPrefix)
	}
	return nil
}

// engine returns the clients and an engine without jobs.
func (f *moveFlags) engine(ctx context.Context, p *process) (byHand, *reencrypt.Engine, error) {
	settings, err := loadForDesk[Common](ctx, p.environment)
	if err != nil {
		return byHand{}, nil, err
	}
	hand, err := newByHandIn(ctx, p, settings, f.concurrency, f.account)
	if err != nil {
		if f.account == "" {
			err = fmt.Errorf("%w; where there is no STS, name the account that owns the buckets with --account", err)
		}
		return hand, nil, err
	}
	e, err := hand.engine(f.stateBucket, f.concurrency, f.rate)
	return hand, e, err
}

// printFindings writes what a preflight found, for people.
func printFindings(w io.Writer, indent string, findings []reencrypt.Finding) {
	for _, f := range findings {
		fmt.Fprintf(w, "%s%s %s: %s\n", indent, f.Severity, f.Name, alert.Escape(f.What))
		if f.Fix != "" {
			fmt.Fprintf(w, "%s     %s\n", indent, alert.Escape(f.Fix))
		}
	}
}

// counting returns a function that shows how many objects of a bucket, say, were read,
// where w is a terminal, and one that ends the show.
func counting(w io.Writer) (show func(what string, n int64), finish func()) {
	if f, ok := w.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		return func(string, int64) {}, func() {}
	}
	return func(what string, n int64) { fmt.Fprintf(w, "\r\033[K%s: %d read", what, n) }, func() { fmt.Fprint(w, "\r\033[K") }
}
