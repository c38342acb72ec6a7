package cli

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"golang.org/x/term"

	"github.com/cmkeeper/cmkeeper/alert"
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
	stderr                  io.Writer
}

// newByHand makes the clients for so many calls at once.
func newByHand(ctx context.Context, p *process, settings Common, connections int) (byHand, error) {
	cfg, err := awsclient.Load(ctx, connections)
	if err != nil {
		return byHand{}, err
	}
	caller, err := sts.NewFromConfig(cfg).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return byHand{}, fmt.Errorf("ask AWS who we are: %w", err)
	}
	b := byHand{
		account: aws.ToString(caller.Account), caller: aws.ToString(caller.Arn), region: cfg.Region, settings: settings,
		kms: kms.NewFromConfig(cfg), s3: settings.s3(cfg), sqs: awsclient.SQS(cfg), sns: sns.NewFromConfig(cfg), stderr: p.stderr,
	}
	b.facts = inventory.New(b.kms, b.s3, b.account, b.region)
	return b, nil
}

// loadByHand reads Common and makes the clients for so many calls at once.
func loadByHand(ctx context.Context, p *process, connections int) (byHand, error) {
	settings, err := loadForDesk[Common](ctx, p.environment)
	if err != nil {
		return byHand{}, err
	}
	return newByHand(ctx, p, settings, connections)
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

// printFindings writes what a preflight found, for people.
func printFindings(w io.Writer, indent string, findings []reencrypt.Finding) {
	for _, f := range findings {
		fmt.Fprintf(w, "%s%s %s: %s\n", indent, f.Severity, f.Name, alert.Escape(f.What))
		if f.Fix != "" {
			fmt.Fprintf(w, "%s     %s\n", indent, alert.Escape(f.Fix))
		}
	}
}

// counting returns a function that shows how many objects of a bucket were read,
// where w is a terminal, and one that ends the show.
func counting(w io.Writer) (show func(bucket string, n int64), finish func()) {
	if f, ok := w.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		return func(string, int64) {}, func() {}
	}
	return func(bucket string, n int64) { fmt.Fprintf(w, "\r\033[K%s: %d read", bucket, n) }, func() { fmt.Fprint(w, "\r\033[K") }
}
