package s3control

import (
	"encoding/xml"
	"strings"
	"time"
)

// others collects the members of a request that are not modelled.
type others []struct{ XMLName xml.Name }

func (o others) check(of string) error {
	if len(o) == 0 {
		return nil
	}
	return notModelled(of + "." + o[0].XMLName.Local)
}

// createJobRequest is the body of CreateJob.
type createJobRequest struct {
	XMLName              xml.Name `xml:"CreateJobRequest"`
	ClientRequestToken   string
	ConfirmationRequired bool
	Description          string
	Priority             int32
	RoleArn              string
	Operation            operationBody
	Report               *reportBody
	Manifest             *manifestBody
	Generator            *generatorBody `xml:"ManifestGenerator>S3JobManifestGenerator"`
	Others               others         `xml:",any"`
}

type operationBody struct {
	Update *struct {
		KeyARN    string `xml:"ObjectEncryption>SSE-KMS>KMSKeyArn"`
		BucketKey bool   `xml:"ObjectEncryption>SSE-KMS>BucketKeyEnabled"`
		Others    others `xml:",any"`
	} `xml:"S3UpdateObjectEncryption"`
	Others others `xml:",any"`
}

type reportBody struct {
	Enabled             bool
	Bucket              string
	ExpectedBucketOwner string
	Format              string
	Prefix              string
	ReportScope         string
	Others              others `xml:",any" json:"-"`
}

// manifestBody is a manifest that is given.
type manifestBody struct {
	Format    string   `xml:"Spec>Format"`
	Fields    []string `xml:"Spec>Fields>member"`
	ObjectARN string   `xml:"Location>ObjectArn"`
	ETag      string   `xml:"Location>ETag"`
	Others    others   `xml:",any"`
}

// generatorBody is what a manifest is generated from.
type generatorBody struct {
	EnableManifestOutput bool
	ExpectedBucketOwner  string
	SourceBucket         string
	Filter               filterBody
	Output               *struct {
		Bucket                      string
		ExpectedManifestBucketOwner string
		ManifestFormat              string
		ManifestPrefix              string
		Others                      others `xml:",any"`
	} `xml:"ManifestOutputLocation"`
	Others others `xml:",any"`
}

type filterBody struct {
	CreatedAfter, CreatedBefore time.Time
	Key                         struct {
		Prefix    []string `xml:"MatchAnyPrefix>member"`
		Substring []string `xml:"MatchAnySubstring>member"`
		Suffix    []string `xml:"MatchAnySuffix>member"`
	} `xml:"KeyNameConstraint"`
	Encryption []encryptionFilter `xml:"MatchAnyObjectEncryption>ObjectEncryption"`
	LargerThan *int64             `xml:"ObjectSizeGreaterThanBytes"`
	LessThan   *int64             `xml:"ObjectSizeLessThanBytes"`
	Others     others             `xml:",any"`
}

// encryptionFilter is one kind of encryption; exactly one member is set.
type encryptionFilter struct {
	KMS *struct {
		KeyARN    string `xml:"KmsKeyArn"`
		BucketKey *bool  `xml:"BucketKeyEnabled"`
	} `xml:"SSE-KMS"`
	S3     *struct{} `xml:"SSE-S3"`
	DSSE   *dsse     `xml:"DSSE-KMS"`
	SSEC   *struct{} `xml:"SSE-C"`
	Others others    `xml:",any"`
}

type dsse struct {
	KeyARN string `xml:"KmsKeyArn"`
}

// check refuses a request that is not valid, or not modelled.
func (r *createJobRequest) check() error {
	for _, o := range []struct {
		of string
		others
	}{{"CreateJob", r.Others}, {"Operation", r.Operation.Others}} {
		if err := o.check(o.of); err != nil {
			return err
		}
	}
	switch {
	case r.ClientRequestToken == "" || len(r.ClientRequestToken) > 64:
		return invalidRequest("ClientRequestToken must have 1 to 64 characters")
	case len(r.Description) > 256:
		return invalidRequest("Description must have at most 256 characters")
	case r.Operation.Update == nil:
		return notModelled("the operation of the job")
	case r.Operation.Update.KeyARN == "" || !strings.Contains(r.Operation.Update.KeyARN, ":key/"):
		return invalidRequest("KMSKeyArn must be the ARN of a key")
	case !strings.Contains(r.RoleArn, ":role/"):
		return invalidRequest("RoleArn must be the ARN of a role")
	case r.Priority < 0:
		return invalidRequest("Priority must not be negative")
	case (r.Manifest == nil) == (r.Generator == nil):
		return invalidRequest("Jobs must be created with either a manifest or a manifest generator, but not both")
	}
	if err := r.Report.check(); err != nil {
		return err
	}
	if r.Manifest != nil {
		return r.Manifest.check()
	}
	return r.Generator.check()
}

func (r *reportBody) check() error {
	switch {
	case r == nil:
		return invalidRequest("Report is missing")
	case len(r.Others) > 0:
		return r.Others.check("Report")
	case !r.Enabled:
		return nil
	case bucketOf(r.Bucket) == "" || r.Format != reportFormat || r.ReportScope != "AllTasks" && r.ReportScope != "FailedTasksOnly":
		return invalidRequest("A report needs a Bucket (its ARN), the Format " + reportFormat + " and a ReportScope")
	}
	return nil
}

func (m *manifestBody) check() error {
	switch {
	case len(m.Others) > 0:
		return m.Others.check("Manifest")
	case m.Format != "S3BatchOperations_CSV_20180820":
		return notModelled("manifests of the format " + m.Format)
	case len(m.Fields) < 2 || len(m.Fields) > 3 || m.Fields[0] != "Bucket" || m.Fields[1] != "Key" || len(m.Fields) == 3 && m.Fields[2] != "VersionId":
		return invalidRequest("The fields of a manifest are Bucket, Key and perhaps VersionId")
	case bucketOf(m.ObjectARN) == "":
		return invalidRequest("The manifest's ObjectArn is not the ARN of an object")
	}
	return nil
}

func (g *generatorBody) check() error {
	for _, o := range []struct {
		of string
		others
	}{{"S3JobManifestGenerator", g.Others}, {"Filter", g.Filter.Others}} {
		if err := o.check(o.of); err != nil {
			return err
		}
	}
	for _, e := range g.Filter.Encryption {
		if err := e.Others.check("ObjectEncryption"); err != nil {
			return err
		}
	}
	for _, list := range [][]string{g.Filter.Key.Prefix, g.Filter.Key.Substring, g.Filter.Key.Suffix} {
		if len(list) > 1 {
			return invalidRequest("A constraint on key names takes one string")
		}
	}
	switch {
	case bucketOf(g.SourceBucket) == "":
		return invalidRequest("SourceBucket must be the ARN of a bucket")
	case !g.EnableManifestOutput:
		return nil
	case g.Output == nil || bucketOf(g.Output.Bucket) == "" || g.Output.ManifestFormat != manifestFormat:
		return invalidRequest("EnableManifestOutput needs a ManifestOutputLocation with a Bucket (its ARN) and the ManifestFormat " + manifestFormat)
	}
	return g.Output.Others.check("ManifestOutputLocation")
}

// bucketOf returns the bucket that an ARN of S3 names, "" where it names none.
func bucketOf(arn string) string {
	path, ok := strings.CutPrefix(arn, "arn:aws:s3:::")
	if !ok {
		return ""
	}
	bucket, _, _ := strings.Cut(path, "/")
	return bucket
}
