# After the first weeks: repairs, and data that follows its alias, in private subnets
# without another way to AWS than endpoints.

provider "aws" {
  region = "eu-central-1"
}

module "cmkeeper" {
  source = "../.."

  template_bucket = "example-deployments"
  image           = "111122223333.dkr.ecr.eu-central-1.amazonaws.com/cmkeeper:1.0.0"
  vpc_id          = "vpc-0123456789abcdef0"
  subnets         = ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"]
  vpc_endpoints   = true
  route_tables    = ["rtb-0123456789abcdef0"]
  alert_email     = "keys@example.com"
  report_schedule = "weekly"

  trusted_accounts = "222233334444"
  rotation_mode    = "enforce"
  deletion_mode    = "enforce"

  reencrypt_mode    = "enforce"
  reencrypt_aliases = "alias/orders-*"
  data_buckets      = ["arn:aws:s3:::orders-*"]
}
