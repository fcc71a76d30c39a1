"""A user pool of Cognito with somebody in it: prints, on one line, where the pool's OpenID configuration is, the issuer, the app
client, and an access token, an id token and a refresh token of that person. Serves until its standard input ends."""

import signal

import boto3
import iam

PASSWORD = "Correct-Horse-1"


def main():
    address = iam.start()
    cognito = boto3.client("cognito-idp", endpoint_url=address, region_name=iam.REGION, aws_access_key_id="test",
                           aws_secret_access_key="test")
    pool = cognito.create_user_pool(PoolName="people")["UserPool"]["Id"]
    client = cognito.create_user_pool_client(
        UserPoolId=pool, ClientName="perch", ExplicitAuthFlows=["ALLOW_USER_PASSWORD_AUTH"])["UserPoolClient"]["ClientId"]
    cognito.admin_create_user(UserPoolId=pool, Username="ada")
    cognito.admin_set_user_password(UserPoolId=pool, Username="ada", Password=PASSWORD, Permanent=True)
    tokens = cognito.initiate_auth(
        ClientId=client, AuthFlow="USER_PASSWORD_AUTH",
        AuthParameters={"USERNAME": "ada", "PASSWORD": PASSWORD})["AuthenticationResult"]
    issuer = f"https://cognito-idp.{iam.REGION}.amazonaws.com/{pool}"
    print(f"{address}/{pool}/.well-known/openid-configuration", issuer, client, tokens["AccessToken"], tokens["IdToken"],
          tokens["RefreshToken"], flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
